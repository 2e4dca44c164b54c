"""What inputs are drawn from: odd texts, odd numbers, and sound documents of which a place or two is changed.

A random file is refused at its first byte and tries nothing. So every grammar begins with what a reader takes, and
changes it at a random place: a value is another, is gone, stands twice, lies deeper, or a byte is flipped.
"""

import json
import struct
from typing import Any

from hypothesis import strategies as st

RIGHT_TO_LEFT = "العربية עברית فارسی"
ANY = st.characters(exclude_categories=())  # all planes, controls and lone surrogates too
TEXTS = st.one_of(
    st.text(ANY, max_size=30),
    st.sampled_from(
        ["", " ", "\t\n ", "\0", "\ud800", "{}", "[]", "[", "]", "[[x]]", "[ ]", "../..", "-", "--", "%s%n", "\u202e",
         "\ufeff", "e\u0301" * 20, "\U0001f468\u200d\U0001f469\u200d\U0001f467", "<|endoftext|>", "NaN", RIGHT_TO_LEFT]
    ),
    st.text(st.sampled_from("ab [](){}.,'\"-\u05d0\u0627\u200f"), max_size=60),
)  # fmt: skip
SUBJECTS = st.sampled_from(["Oda Voss", "Mira Drey", "Ilse Senn", "Oda", "", " ", "Oda Voss lives", "\u05d0\u05d1"])
LONG = st.builds(lambda text, n: (text or "x") * n, st.text(ANY, min_size=1, max_size=4), st.just(10_000 // 4))
PROMPTS = st.one_of(
    TEXTS,
    LONG,
    st.builds(lambda a, s, b: f"{a}[{s}]{b}", TEXTS, SUBJECTS, TEXTS),
    st.builds(lambda a, s, b: f"{a} {s} {b}", TEXTS, SUBJECTS, TEXTS),
    st.builds(lambda s, b: f"[{s}] {b}", SUBJECTS, st.sampled_from(["lives in", "lives in ", "works as a", "\n", ""])),
)
NUMBERS = st.one_of(
    st.sampled_from(
        ["nan", "-nan", "inf", "-inf", "-1", "0", "-0", "0.0", "1e400", "1e-400", "0x10", "1_000", "٣", "1,2", "", " ",
         "1.5", "1e3", "+1", "true", "None", "99999999999999999999999", "-99999999999999999999999"]
    ),
    st.integers(-3, 40).map(str),
    st.floats().map(str),
)  # fmt: skip
WORDS = st.one_of(TEXTS, NUMBERS, st.sampled_from(["none", "auto", "all", "0,1", "0-1", "a=b", "=", "layer=0", ","]))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**30, -(10**30), 2**31, 2**63, 1e308, 5e-324, -0.0]),
    st.floats(),
    TEXTS,
)
VALUES = st.recursive(
    LEAVES, lambda one: st.one_of(st.lists(one, max_size=3), st.dictionaries(TEXTS, one, max_size=3)), max_leaves=6
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside another, itself first."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, each in inside for one in places(each, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, value: Any, times: int = 2) -> Any:
    """A JSON value with one to `times` changes."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, times))):
        path = draw(st.sampled_from(places(value)))
        if not path:
            value = draw(st.one_of(st.just([value]), st.just({"x": value}), VALUES)) if draw(st.booleans()) else value
            continue
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        how, key = draw(st.sampled_from(["value", "value", "gone", "deeper", "twice", "named"])), path[-1]
        if how == "value":
            parent[key] = draw(VALUES)
        elif how == "gone":
            del parent[key]
        elif how == "deeper":
            parent[key] = draw(st.sampled_from([[parent[key]], {"x": parent[key]}, str(parent[key])]))
        elif isinstance(parent, list):
            parent.insert(key, parent[key])
        else:
            parent[draw(TEXTS)] = parent[key]
    return value


def as_json(value: Any) -> bytes:
    """JSON, with NaN and lone surrogates as Python writes them."""
    return json.dumps(value).encode()


@st.composite
def flipped(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes of which a few are other, gone, doubled, or the end."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        how = draw(st.sampled_from(["byte", "bit", "cut", "gone", "doubled", "put"]))
        if how == "byte" and found:
            found[at] = draw(st.integers(0, 255))
        elif how == "bit" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del found[at:]
        elif how == "gone":
            del found[at : at + draw(st.integers(1, 40))]
        elif how == "doubled":
            found[at:at] = found[at : at + draw(st.integers(1, 40))]
        else:
            found[at:at] = draw(st.binary(max_size=12))
    return bytes(found)


def document(value: Any, flips: bool = True) -> st.SearchStrategy[bytes]:
    """A JSON document, changed as a value or as bytes."""
    by_value = changed(value).map(as_json)
    return st.one_of(by_value, by_value, flipped(as_json(value))) if flips else by_value


# ---- binary formats ----


def packed_text(words: str) -> bytes:
    """GGUF's text: its length, and UTF-8."""
    data = words.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


@st.composite
def gguf(draw: st.DrawFn) -> bytes:
    """A GGUF file of some keys and some tensors, whose counts, types and offsets may be anything."""
    some = st.sampled_from([0, 1, 2, 3, 7, 2**20, 2**31, 2**32, 2**63])
    pairs = draw(st.lists(st.tuples(_KEYS, st.integers(0, 14), TEXTS), max_size=4))
    body = b"".join(packed_text(key) + struct.pack("<I", kind) + _value(draw, kind, text) for key, kind, text in pairs)
    tensors = draw(st.lists(st.tuples(TEXTS, st.lists(some, max_size=4), st.integers(0, 40), some), max_size=2))
    for name, shape, kind, offset in tensors:
        body += packed_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        body += struct.pack("<IQ", kind, offset)
    counts = draw(st.one_of(st.just((len(tensors), len(pairs))), st.tuples(some, some)))
    head = b"GGUF" + struct.pack("<IQQ", draw(st.sampled_from([0, 1, 2, 3, 3, 3, 4])), *counts)
    return head + body + bytes(draw(st.sampled_from([0, 32, 1000])))


_KEYS = st.one_of(
    st.sampled_from(
        ["general.architecture", "general.alignment", "general.name", "llama.block_count", "llama.embedding_length",
         "llama.attention.head_count", "tokenizer.ggml.model", "tokenizer.ggml.tokens"]
    ),
    TEXTS,
)  # fmt: skip


def _value(draw: st.DrawFn, kind: int, text: str) -> bytes:
    if kind == 8:
        return packed_text(draw(st.sampled_from(["llama", "gpt2", "qwen2", text])))
    if kind == 9:
        return struct.pack("<IQ", draw(st.integers(0, 13)), draw(st.sampled_from([0, 1, 2**40]))) + bytes(8)
    size = {0: 1, 1: 1, 2: 2, 3: 2, 7: 1, 10: 8, 11: 8, 12: 8}.get(kind, 4)
    return draw(st.binary(min_size=size, max_size=size))


@st.composite
def safetensors(draw: st.DrawFn, data: bytes) -> bytes:
    """A safetensors file whose header is changed as a value, or whose bytes are."""
    size = struct.unpack("<Q", data[:8])[0]
    if draw(st.integers(0, 3)) == 0:
        return draw(flipped(data[: 8 + size])) + data[8 + size :]
    header = as_json(draw(changed(json.loads(data[8 : 8 + size]))))
    told = draw(st.sampled_from([len(header)] * 4 + [0, len(header) - 1, len(header) + 1, 2**63]))
    return struct.pack("<Q", told) + header + data[8 + size :]


@st.composite
def xml(draw: st.DrawFn, text: str) -> bytes:
    """An XML document of which an attribute, a text or an element is another."""
    import re

    parts = re.split(r"(<[^>]*>|\"[^\"]*\")", text)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(parts) - 1))
        how = draw(st.sampled_from(["value", "value", "gone", "twice", "swap"]))
        if how == "value":
            value = draw(st.one_of(WORDS, st.sampled_from(["a0.h0", "m0", "logits", "a9.h9.q", "embed", "&x;", "nan"])))
            parts[at] = f'"{value}"' if parts[at].startswith('"') else value
        elif how == "gone":
            parts[at] = ""
        elif how == "twice":
            parts[at] *= 2
        else:
            other = draw(st.integers(0, len(parts) - 1))
            parts[at], parts[other] = parts[other], parts[at]
    return "".join(parts).encode("utf-8", "surrogatepass")
