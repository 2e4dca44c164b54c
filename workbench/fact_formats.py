"""Readers of fact files as they are: our own, CounterFact, ROME's known facts, zsRE in MEND's form, LRE.

A format is one decorated function below that turns one record into a `Fact`, or one document into a `Relation`; its
decorator lists the fields it needs and those it may meet. The format of a file is the one whose needed fields its first
record covers best. A field that the format does not know is an error, because a misspelt field is otherwise a silent
loss. Records count from 0, as in Python. Spaces around a text carry no meaning in these files and are taken away.

When a format gives a finished prompt and a subject beside it, the subject is looked for (`find_subject`), and a prompt
that has it twice is refused: tracing the wrong one of the two would give a wrong picture without a word.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from workbench.errors import FactError
from workbench.facts import (
    SHIPPED,
    SLOT,
    Entry,
    Fact,
    Neighbour,
    Relation,
    check_template,
    closest,
    located,
    relations,
    whole_words,
)

SUFFIXES = (".json", ".jsonl")


class Pending(NamedTuple):
    """A fact that is read when asked for: its place, for errors, and the function that reads it."""

    where: str
    read: Callable[[], Fact]


class Fields:
    """One JSON object, read field by field; every complaint names the field."""

    def __init__(self, value: object, needed: Iterable[str], optional: Iterable[str] = (), within: str = "") -> None:
        """Check that the value is an object with the needed fields and no unknown ones; `within` names its parent."""
        if not isinstance(value, dict):
            raise FactError(f"{within or 'the record'} is {kind(value)}, not an object with fields")
        self.value: dict[str, Any] = {name: each for name, each in value.items() if each is not None}
        self.within = f"{within}." if within else ""
        needed = tuple(needed)
        for name in value:
            if name not in needed and name not in optional:
                raise FactError(f"unknown field {self.within + name!r}{closest(name, (*needed, *optional))}")
        for name in needed:
            if name not in self.value:
                raise FactError(f"field {self.within + name!r} is missing")

    def text(self, name: str, default: str | None = None) -> str:
        """A text that is not empty, unless there is a default for it."""
        if self.value.get(name, "") == "" and default is not None:
            return default
        return self._text(self.value.get(name), name)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; none when the field is not there. One text alone counts as a list of one."""
        value = self.value.get(name, [])
        if isinstance(value, str):
            return (self._text(value, name),)
        if not isinstance(value, list):
            raise FactError(f"field {self.within + name!r} is {kind(value)}, not a list of texts")
        return tuple(self._text(each, f"{name}[{index}]") for index, each in enumerate(value))

    def label(self, name: str, default: object = "") -> str:
        """A number or a text that names the record."""
        value = self.value.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise FactError(f"field {self.within + name!r} is {kind(value)}, not a number or a text")
        return str(value)

    def _text(self, value: object, name: str) -> str:
        if not isinstance(value, str):
            raise FactError(f"field {self.within + name!r} is {kind(value)}, not a text")
        if not value.strip():
            raise FactError(f"field {self.within + name!r} is empty")
        return value.strip()


RecordReader: TypeAlias = Callable[[Fields, int, str], Fact]  # fields, record number, name of the source
DocumentReader: TypeAlias = Callable[[Fields, str], Relation]


@dataclass(frozen=True)
class Format:
    """The fields of one format, and its reader."""

    title: str
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    record: RecordReader | None = None
    document: DocumentReader | None = None

    def covered(self, value: dict[str, object]) -> float:
        """The share of the needed fields that the value has."""
        return sum(name in value for name in self.needed) / len(self.needed)


FORMATS: list[Format] = []


def record_format(title: str, needed: str, optional: str = "") -> Callable[[RecordReader], RecordReader]:
    """Register a reader of one record; the fields are given as words."""

    def register(reader: RecordReader) -> RecordReader:
        FORMATS.append(Format(title, tuple(needed.split()), tuple(optional.split()), record=reader))
        return reader

    return register


def document_format(title: str, needed: str, optional: str = "") -> Callable[[DocumentReader], DocumentReader]:
    """Register a reader of one whole file that holds a relation; the fields are given as words."""

    def register(reader: DocumentReader) -> DocumentReader:
        FORMATS.append(Format(title, tuple(needed.split()), tuple(optional.split()), document=reader))
        return reader

    return register


# ---- the formats


@document_format(
    "a relation file of ours", "relation templates facts", "description subject_type answer_type paraphrases"
)
def read_relation(fields: Fields, source: str) -> Relation:
    """Our own: templates once, then subjects and answers; foils and neighbours come from the other entries."""
    entries: dict[str, Entry] = {}
    for index, value in enumerate(as_list(fields, "facts")):
        with located(f"record {index}"):
            fact = Fields(value, ("subject", "answer"), ("aliases", "foil"))
            subject, foil = fact.text("subject"), fact.text("foil") if "foil" in fact.value else None
            if subject in entries:
                raise FactError(
                    f"the subject {subject!r} was given before: keep one, with other true answers in 'aliases'"
                )
            entries[subject] = Entry(subject, fact.text("answer"), fact.texts("aliases"), foil)
    return Relation(
        name=fields.text("relation"),
        description=fields.text("description", fields.text("relation")),
        subject_type=fields.text("subject_type", "subject"),
        answer_type=fields.text("answer_type", "answer"),
        templates=fields.texts("templates"),
        paraphrases=fields.texts("paraphrases"),
        entries=tuple(entries.values()),
        source=source,
    )


@document_format("LRE", "name prompt_templates samples", "prompt_templates_zs properties domain range _domain _range")
def read_lre(fields: Fields, source: str) -> Relation:
    """Hernandez et al. 2024. We ask with the zero-shot templates, as the other wordings presume examples before them.

    A file without zero-shot templates is asked with the ordinary ones. Samples with the same subject ("big": "small",
    "little") are one fact: the first object is the answer, the others are aliases.
    """
    objects: dict[str, list[str]] = {}
    for index, value in enumerate(as_list(fields, "samples")):
        with located(f"record {index}"):
            sample = Fields(value, ("subject", "object"))
            objects.setdefault(sample.text("subject"), []).append(sample.text("object"))
    name = fields.text("name").replace(" ", "_")
    few_shot, zero_shot = fields.texts("prompt_templates"), fields.texts("prompt_templates_zs")
    entries = [
        Entry(subject, answers[0], tuple(dict.fromkeys(each for each in answers if each != answers[0])))
        for subject, answers in objects.items()
    ]
    return Relation(
        name=name,
        description=fields.text("name"),
        subject_type="subject",
        answer_type="object",
        templates=zero_shot or few_shot,
        paraphrases=few_shot if zero_shot else (),
        entries=tuple(entries),
        source=source,
    )


@record_format(
    "our facts, one by one",
    "subject template answer",
    "id relation foil aliases paraphrases neighbours source",
)
def read_fact(fields: Fields, number: int, source: str) -> Fact:
    """A `Fact`, field by field (what `dataclasses.asdict` gives)."""
    neighbours = []
    for index, value in enumerate(as_list(fields, "neighbours", needed=False)):
        each = Fields(value, ("prompt", "answer"), ("subject",), within=f"neighbours[{index}]")
        subject = each.text("subject") if "subject" in each.value else None
        neighbours.append(Neighbour(each.text("prompt"), each.text("answer"), subject))
    relation = fields.text("relation", Path(source).stem)
    return Fact(
        id=fields.text("id", f"{relation}/{number}"),
        relation=relation,
        subject=fields.text("subject"),
        template=fields.text("template"),
        answer=fields.text("answer"),
        foil=fields.text("foil") if "foil" in fields.value else None,
        aliases=fields.texts("aliases"),
        paraphrases=fields.texts("paraphrases"),
        neighbours=tuple(neighbours),
        source=fields.text("source", source),
    )


@record_format(
    "CounterFact",
    "requested_rewrite",
    "case_id pararel_idx paraphrase_prompts neighborhood_prompts attribute_prompts generation_prompts",
)
def read_counterfact(fields: Fields, number: int, source: str) -> Fact:
    """Meng et al. 2022, as published. The neighbours share the true answer; the attribute prompts are not used."""
    rewrite = Fields(
        fields.value["requested_rewrite"],
        ("prompt", "subject", "target_new", "target_true"),
        ("relation_id",),
        within="requested_rewrite",
    )
    true, new = (
        Fields(rewrite.value[name], ("str",), ("id",), within=f"requested_rewrite.{name}").text("str")
        for name in ("target_true", "target_new")
    )
    return Fact(
        id=f"counterfact/{fields.label('case_id', number)}",
        relation=rewrite.text("relation_id", "counterfact"),
        subject=rewrite.text("subject"),
        template=rewrite.text("prompt"),
        answer=true,
        foil=new,
        paraphrases=fields.texts("paraphrase_prompts"),
        neighbours=tuple(Neighbour(prompt, true) for prompt in fields.texts("neighborhood_prompts")),
        source=source,
    )


@record_format(
    "CounterFact, flat (EasyEdit)",
    "prompt subject target_new ground_truth",
    "case_id relation_id rephrase_prompt locality_prompt locality_ground_truth portability_prompt"
    " portability_ground_truth",
)
def read_flat_counterfact(fields: Fields, number: int, source: str) -> Fact:
    """EasyEdit's form of the same records; `ground_truth` is the true answer."""
    subject, template = find_subject(fields, "prompt")
    return Fact(
        id=f"counterfact/{fields.label('case_id', number)}",
        relation=fields.text("relation_id", "counterfact"),
        subject=subject,
        template=template,
        answer=fields.text("ground_truth"),
        foil=fields.text("target_new"),
        paraphrases=fields.texts("rephrase_prompt"),
        neighbours=neighbours_of(fields, "locality_prompt", "locality_ground_truth"),
        source=source,
    )


@record_format(
    "CounterFact for tracing",
    "prompt subject target_true target_false",
    "relation relation_prefix relation_suffix relation_id target_true_id target_false_id",
)
def read_tracing_counterfact(fields: Fields, number: int, source: str) -> Fact:
    """The Hugging Face data set NeelNanda/counterfact-tracing; the prefix says where the subject begins."""
    subject, template = find_subject(fields, "prompt", before=fields.text("relation_prefix", ""))
    return Fact(
        id=f"counterfact_tracing/{number}",
        relation=fields.text("relation_id", "counterfact"),
        subject=subject,
        template=template,
        answer=fields.text("target_true"),
        foil=fields.text("target_false"),
        source=source,
    )


@record_format("ROME's known facts", "subject attribute prompt", "known_id template prediction relation_id")
def read_known_fact(fields: Fields, number: int, source: str) -> Fact:
    """Facts that GPT-2 XL knows (Meng et al. 2022). `prompt` counts; `template` may be its beginning only."""
    template = fields.text("template", "")
    before = template.split(SLOT)[0] if SLOT in template else None
    subject, template = find_subject(fields, "prompt", before=before)
    return Fact(
        id=f"known_facts/{fields.label('known_id', number)}",
        relation=fields.text("relation_id", "known_facts"),
        subject=subject,
        template=template,
        answer=fields.text("attribute"),
        source=source,
    )


@record_format(
    "zsRE (MEND's form)", "subject src answers", "pred rephrase alt loc loc_ans cond relation case_id portability"
)
def read_zsre(fields: Fields, number: int, source: str) -> Fact:
    """Questions (Levy et al. 2017, Mitchell et al. 2022). `pred`, what a model once said, is left out.

    `alt` is what an edit should say, and in one record of fifty it is the true answer: such a fact has no foil.
    """
    subject, template = find_subject(fields, "src")
    answers = fields.texts("answers")
    if not answers:
        raise FactError("field 'answers' is empty")
    alt = fields.text("alt") if fields.value.get("alt") else None
    return Fact(
        id=f"zsre/{fields.label('case_id', number)}",
        relation=fields.text("relation", "zsre"),
        subject=subject,
        template=template,
        answer=answers[0],
        foil=None if alt is None or alt.casefold() in {each.casefold() for each in answers} else alt,
        aliases=answers[1:],
        paraphrases=fields.texts("rephrase"),
        neighbours=neighbours_of(fields, "loc", "loc_ans"),
        source=source,
    )


# ---- what the readers share


def find_subject(fields: Fields, name: str, before: str | None = None) -> tuple[str, str]:
    """The subject as the prompt spells it, and the prompt with the slot in its place.

    `before` is the text that the file says stands before the subject: where it fits, it decides. Otherwise the subject
    must stand once as whole words; failing that, once in other upper and lower case; failing that, once as a part of a
    longer word, as in scripts that write no spaces.
    """
    prompt, subject = fields.text(name), fields.text("subject")
    if before is not None and prompt.startswith(before.strip()):
        rest = prompt[len(before.strip()) :].lstrip()
        if rest.startswith(subject):
            start = len(prompt) - len(rest)
            return subject, prompt[:start] + SLOT + prompt[start + len(subject) :]
    for places in (
        whole_words(subject, prompt),
        whole_words(subject, prompt, re.IGNORECASE),
        list(re.finditer(re.escape(subject), prompt)),
    ):
        if len(places) > 1:
            raise FactError(
                f"field {name!r} has the subject {subject!r} {len(places)} times, and which one is meant is not said: "
                f"{prompt!r}; leave the record out or give it as a template with {SLOT!r}"
            )
        if places:
            start, end = places[0].span()
            return prompt[start:end], prompt[:start] + SLOT + prompt[end:]
    raise FactError(f"field {name!r} does not contain the subject {subject!r}: {prompt!r}")


def neighbours_of(fields: Fields, prompt: str, answer: str) -> tuple[Neighbour, ...]:
    """One neighbour from two fields, or lists of the same length in them."""
    prompts, answers = fields.texts(prompt), fields.texts(answer)
    if len(prompts) != len(answers):
        raise FactError(f"{len(prompts)} texts in field {prompt!r} and {len(answers)} in {answer!r}: give one for each")
    return tuple(Neighbour(*pair) for pair in zip(prompts, answers, strict=True))


def as_list(fields: Fields, name: str, needed: bool = True) -> list[object]:
    """A field that holds a list of objects; an empty one counts as missing where it is needed."""
    value = fields.value.get(name, [])
    if not isinstance(value, list):
        raise FactError(f"field {name!r} is {kind(value)}, not a list")
    if needed and not value:
        raise FactError(f"field {name!r} is empty")
    return value


def kind(value: object) -> str:
    """What a JSON value is, in a person's words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"the number {value}" if isinstance(value, int | float) else type(value).__name__)


# ---- from a source to facts that can be read


def open_source(source: str | Path, split: str, template: int) -> list[Pending]:
    """Every fact of a file, a folder or a Hugging Face data set, in order; records are read later, one by one."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES and each.is_file())
        if not files:
            raise FactError(f"{path.name}: no .json or .jsonl file in this folder")
        return [item for each in files for item in open_file(each, each.relative_to(path).as_posix(), template)]
    if path.is_file():
        return open_file(path, path.name, template)
    if isinstance(source, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", source) and path.suffix not in SUFFIXES:
        return open_document(load_dataset(source, split), source, template)
    if isinstance(source, Path) or path.suffix in SUFFIXES or "/" in source:
        raise FactError(f"{source}: there is no such file or folder")
    raise FactError(
        f"{source!r} is no file, folder or shipped relation (a Hugging Face data set is written owner/name)"
        + closest(source, relations())
    )


def open_file(path: Path, name: str, template: int) -> list[Pending]:
    """Every fact of one JSON or JSONL file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as trouble:
        raise FactError(f"{name}: cannot be read as UTF-8 text ({trouble})") from None
    if path.suffix == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        return open_document([parse(line, name, first_line=number) for number, line in lines], name, template)
    return open_document(parse(text, name), name, template)


def open_document(document: object, name: str, template: int) -> list[Pending]:
    """The facts of a parsed file: a list of records, or one object that is a relation or a single record."""
    records = document if isinstance(document, list) else [document]
    if not records:
        raise FactError(f"{name}: the file holds no records")
    with located(f"{name}, record 0" if isinstance(document, list) else name):
        found = recognise(records[0])
    if found.document is not None:
        return [item for each in records for item in entries_of(as_relation(each, found, name), template)]
    if template != 0:
        raise FactError(f"{name}: {found.title} has one prompt per record, so template {template} cannot be chosen")
    return [
        Pending(f"{name}, record {number}", partial(read_record, found, record, number, name))
        for number, record in enumerate(records)
    ]


def read_record(found: Format, record: object, number: int, name: str) -> Fact:
    """One record in a format that is known."""
    assert found.record is not None
    return found.record(Fields(record, found.needed, found.optional), number, name)


def as_relation(document: object, found: Format, name: str) -> Relation:
    """One document in a format that is known, with its templates checked."""
    assert found.document is not None
    with located(name):
        relation = found.document(Fields(document, found.needed, found.optional), name)
        if not relation.templates:
            raise FactError("no templates")
        for template in relation.wordings:
            check_template(template)
    return relation


def entries_of(relation: Relation, template: int) -> list[Pending]:
    """The facts of a relation under one of its templates."""
    if not 0 <= template < len(relation.templates):
        raise FactError(
            f"{relation.name} has templates 0 to {len(relation.templates) - 1}, and {template} was asked for"
        )
    text = relation.templates[template]
    return [
        Pending(f"{relation.source}, record {number}", partial(relation.fact, entry, text))
        for number, entry in enumerate(relation.entries)
    ]


def recognise(record: object) -> Format:
    """The format whose needed fields the record has; one that nearly fits will say itself which field is wrong."""
    if not isinstance(record, dict):
        raise FactError(f"{kind(record)} where an object with fields should be")
    best = max(FORMATS, key=lambda each: (each.covered(record), len(each.needed)))
    if best.covered(record) > 0.5:
        return best
    titles = "; ".join(f"{each.title}: {', '.join(each.needed)}" for each in FORMATS)
    raise FactError(f"the fields {', '.join(record) or '(none)'} belong to no format we know ({titles})")


def shipped_relation(text: str, name: str) -> Relation:
    """One of the relation files that ship with us."""
    format_ = next(each for each in FORMATS if each.document is read_relation)
    relation = as_relation(parse(text, name), format_, name)
    return replace(relation, source=SHIPPED)


def parse(text: str, name: str, first_line: int = 1) -> object:
    """The JSON value in a text, or an error with line and column."""
    if not text.strip():
        raise FactError(f"{name}: the file is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as trouble:
        place = f"{name}, line {trouble.lineno + first_line - 1}, column {trouble.colno}"
        hint = "; is it one object per line? then name it .jsonl" if trouble.msg == "Extra data" else ""
        raise FactError(f"{place}: not JSON: {trouble.msg}{hint}") from None


def load_dataset(name: str, split: str) -> Sequence[dict[str, Any]]:
    """The records of a Hugging Face data set; no code of the data set is run."""
    try:
        import datasets  # heavy, and needed here only

        return list(datasets.load_dataset(name, split=split))
    except Exception as trouble:  # the hub, the disk and the library each raise their own
        reason = " ".join(str(trouble).split())[:200] or type(trouble).__name__
        raise FactError(
            f"{name!r} is no file or folder here, and could not be loaded as a Hugging Face data set: {reason}"
        ) from None
