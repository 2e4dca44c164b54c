"""The Jacobian lens: read a state by its mean first-order effect on the final states, then unembed.

Gurnee et al. 2026, "Verbalizable Representations Form a Global Workspace in Language Models"; TransformerLens has a
`JacobianLens`, too, which the tests compare with. Over positions V of some texts,

    J_l = mean over texts and over t in V of the sum over t' >= t in V of d h_final,t' / d h_l,t

and a state is read as softmax(W_U norm(J_l h_l)). The logit lens is J = I: so is this one at the final state. Nothing
is trained, and J needs few texts, as it is a mean over whole Jacobians (`tracing.states.jacobian`).

*Convention*: V leaves out the first `skip` positions, whose states are attention sinks, and the last one. The authors
skip 16; facts are shorter than that, and ours skips 4, the start token among them.

*Scope*: the texts are sentences of shipped facts, joined; the lens says, for other such texts that it has not seen, how
far it is from the model's own prediction, KL(final || lens) in nats, beside the logit lens.

Every text is on disk when it is done, and a stopped fit goes on; a finished lens is kept in the cache under the model's
fingerprint and the settings.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor

from factscope.cache import cache_folder, digest
from factscope.data.joining import between
from factscope.data.shipped import relations
from factscope.errors import UserError
from factscope.files import write_bytes_atomically
from factscope.model.bridge import Bridge
from factscope.model.prompts import start_ids, token_ids
from factscope.model.weights import fingerprint
from factscope.progress import progress
from tracing.states.clean import CleanRun
from tracing.states.held_out import as_it_is, held_out
from tracing.states.jacobian import jacobians

VERSION = 1  # of what is kept


@dataclass(frozen=True)
class JacobianConfig:
    """Which texts; each costs d_model rows of forward and backward passes of its length."""

    texts: int = 4
    held_out: int = 4  # further texts, on which the lens is judged
    length: int = 24  # tokens of a text, the start token among them
    skip: int = 4  # positions at the beginning that are left out
    seed: int = 0
    start: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("texts", 1), ("held_out", 1), ("skip", 0), ("seed", 0), ("length", self.skip + 2)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be {least} or more, not {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class JacobianLens:
    """The matrices of one model, and how well they read texts that they were not made of."""

    matrices: Float[Tensor, "moved d_model d_model"]  # all but the final state's, which is the identity
    kl: Float[Tensor, "reader state"]  # KL(final || lens) in nats on held-out texts; the logit lens, then this one
    config: JacobianConfig

    def moved(self, state: int, values: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Where the states of one layer would be at the end."""
        if state == len(self.matrices):
            return values
        return values @ self.matrices[state].to(values).T


def jacobian_lens(
    model: Bridge,
    config: JacobianConfig = JacobianConfig(),
    *,
    folder: str | Path | None = None,
    shown: bool | None = None,
) -> JacobianLens:
    """The lens of `model`, from `folder` (the cache by default) as far as it is there, else fitted.

    Raises UserError for texts that the model cannot read, and ModelError for one that cannot be run in parts exactly.
    """
    if config.length > int(model.cfg.n_ctx):
        raise UserError(f"texts of {config.length} tokens are longer than the model reads, {model.cfg.n_ctx}")
    work = {"version": VERSION, "fingerprint": fingerprint(model), "config": config}
    place = Path(folder) if folder is not None else cache_folder() / "lenses" / f"jacobian-{digest(work)[:16]}"
    done = place / "lens.safetensors"
    if not done.is_file():
        rows = list(texts(model, config))
        total = torch.zeros(())
        with progress("Jacobians of texts", config.texts, shown=shown) as advance:
            for number, row in enumerate(rows[: config.texts]):
                total = total + _one(
                    model, row, config, place / f"text-{digest([work, row])[:16]}.safetensors", not number
                )
                advance(1)
        matrices = total / config.texts
        made = JacobianLens(matrices, torch.empty(0, 0), config)
        kl = held_out(model, [as_it_is, made.moved], rows[config.texts :], config.skip)
        write_bytes_atomically(done, save({"matrices": matrices.contiguous(), "kl": kl}))
        for part in place.glob("text-*.safetensors"):
            part.unlink()
    kept = load_file(done)
    return JacobianLens(kept["matrices"], kept["kl"], config)


def texts(model: Bridge, config: JacobianConfig) -> Iterator[tuple[int, ...]]:
    """Rows of tokens: true sentences of the shipped facts in the order of the seed, joined and cut to one length."""
    facts = [
        relation.fact(entry, relation.templates[0]) for relation in relations().values() for entry in relation.entries
    ]
    random.Random(config.seed).shuffle(facts)
    begin, left = start_ids(model, config.start), iter(facts)
    for _ in range(config.texts + config.held_out):
        row, words = begin, ""
        while len(row) < config.length:
            fact = next(left, None)
            if fact is None:
                raise UserError(
                    f"the shipped facts do not fill {config.texts + config.held_out} texts of {config.length} tokens; "
                    "ask for fewer"
                )
            sentence = f"{fact.prompt}{between(fact.prompt, fact.answer)}{fact.answer}."
            words = f"{words} {sentence}".strip()
            row = (*begin, *token_ids(model, words))
        yield row[: config.length]


def _one(
    model: Bridge, row: Sequence[int], config: JacobianConfig, file: Path, check: bool
) -> Float[Tensor, "state out d_model"]:
    """One text's share, from its file where it was done before."""
    if file.is_file():
        return load_file(file)["jacobian"]
    clean = CleanRun.of(model, row[:-1], check=check)  # what stands last moves nothing before it
    found = jacobians(clean, config.skip, summed=True).mean(2)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(file, save({"jacobian": found.contiguous()}))
    return found
