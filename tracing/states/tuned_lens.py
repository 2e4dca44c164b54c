"""The tuned lens: read a state through an affine map of its layer that was trained to say what the model will say.

Belrose et al. 2023, arXiv 2303.08112. A translator of each layer, with the identity to begin with,

    lens(h_l) = softmax(W_U norm(h_l + A_l h_l + b_l)),    A_l, b_l = argmin of the mean of KL(final || lens(h_l))

over positions of ordinary text. The logit lens is A = b = 0: so is this one before its first step, and at the final
state, which has no translator.

*Convention*: training goes down from the last layer, and each translator begins with the identity or where that of the
layer above ended, whichever is nearer to the model; the authors begin all with the identity, and train on many times as
many tokens. Steps are Adam's (Kingma & Ba 2015), on states that are standardised coordinate by coordinate, in units of
what is moved, with a rate that falls to 0; the map is then told for states as they are. A translator that did not come
nearer than it began is not kept.

*Scope*: trained on the shipped documents (`factscope.data.shipped.documents`), and judged on further ones, beside the
logit lens. It learns what predicts the output, which the model itself may not use at that layer; a Jacobian lens learns
nothing. The first `skip` positions, whose states are attention sinks, are left out.

Every layer is on disk when it is done, and a stopped training goes on to the same bits; a finished lens is kept in the
cache under the model's fingerprint and the settings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor

from factscope.cache import cache_folder, digest
from factscope.data.shipped import documents
from factscope.errors import UserError
from factscope.files import write_bytes_atomically
from factscope.model.bridge import Bridge, without_gradients
from factscope.model.prompts import start_ids, token_ids
from factscope.model.readout import readout
from factscope.model.weights import fingerprint
from factscope.progress import progress
from tracing.states.clean import CleanRun
from tracing.states.held_out import as_it_is, held_out

VERSION = 1  # of what is kept
ROWS = 128  # positions that beginnings and ends are judged on


@dataclass(frozen=True)
class TunedConfig:
    """Which text, and how long each layer is trained on it."""

    documents: int = 64
    held_out: int = 8  # further documents, on which the lens is judged
    length: int = 64  # tokens of a document at most, the start token among them
    skip: int = 1  # positions at the beginning that are left out
    steps: int = 40  # of each layer
    rows: int = 64  # positions in a step
    rate: float = 1e-3  # of Adam at the beginning
    seed: int = 0
    start: str = "auto"

    def __post_init__(self) -> None:
        least = {"documents": 1, "held_out": 1, "length": self.skip + 1, "skip": 0, "steps": 0, "rows": 1, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"{name} must be {value} or more, not {getattr(self, name)}")
        if not self.rate > 0:
            raise UserError(f"rate must be above 0, not {self.rate}")


@dataclass(frozen=True, eq=False)
class TunedLens:
    """The translators of one model, and how well they read documents that they were not trained on."""

    matrices: Float[Tensor, "moved out d_model"]  # I + A; of all but the final state
    biases: Float[Tensor, "moved d_model"]
    kl: Float[Tensor, "reader state"]  # KL(final || lens) in nats on held-out documents; the logit lens, then this one
    config: TunedConfig

    def moved(self, state: int, values: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What is unembedded in the place of the states of one layer."""
        if state == len(self.matrices):
            return values
        return values @ self.matrices[state].to(values).T + self.biases[state].to(values)


def tuned_lens(
    model: Bridge,
    config: TunedConfig = TunedConfig(),
    *,
    folder: str | Path | None = None,
    shown: bool | None = None,
) -> TunedLens:
    """The lens of `model`, from `folder` (the cache by default) as far as it is there, else trained.

    Raises UserError where the shipped text is too little, and ModelError for a model that cannot be run in parts.
    """
    work = digest({"version": VERSION, "fingerprint": fingerprint(model), "config": config})[:16]
    place = Path(folder) if folder is not None else cache_folder() / "lenses" / f"tuned-{work}"
    done = place / "lens.safetensors"
    if not done.is_file():
        rows = list(texts(model, config))
        states = _states(model, config, rows[: config.documents])
        last, width = len(states) - 1, states.shape[-1]
        matrix, bias = torch.eye(width), torch.zeros(width)
        kept: list[tuple[Tensor, Tensor]] = []
        with progress("Tuned lens", last, shown=shown) as advance:
            for state in reversed(range(last)):
                file = place / f"state-{state}-{work}.safetensors"
                if not file.is_file():
                    matrix, bias = _trained(model, config, states[state], states[last], (matrix, bias))
                    write_bytes_atomically(file, save({"matrix": matrix, "bias": bias}))
                found = load_file(file)
                matrix, bias = found["matrix"], found["bias"]
                kept.insert(0, (matrix, bias))
                advance(1)
        matrices, biases = (torch.stack(each) for each in zip(*kept, strict=True))
        made = TunedLens(matrices, biases, torch.empty(0, 0), config)
        kl = held_out(model, [as_it_is, made.moved], rows[config.documents :], config.skip)
        write_bytes_atomically(done, save({"matrices": made.matrices, "biases": made.biases, "kl": kl}))
        for part in place.glob("state-*.safetensors"):
            part.unlink()
    read = load_file(done)
    return TunedLens(read["matrices"], read["biases"], read["kl"], config)


def texts(model: Bridge, config: TunedConfig) -> Iterator[tuple[int, ...]]:
    """Rows of tokens: the shipped documents in their order, those that have a position left, each cut to its length."""
    begin, wanted = start_ids(model, config.start), config.documents + config.held_out
    for document in documents():
        row = (*begin, *token_ids(model, document))[: config.length]
        if len(row) > config.skip and wanted:
            wanted -= 1
            yield row
    if wanted:
        raise UserError(
            f"the shipped text has {len(documents())} documents, too few for {config.documents} to train on and "
            f"{config.held_out} that are held out; ask for fewer"
        )


def _states(model: Bridge, config: TunedConfig, rows: list[tuple[int, ...]]) -> Float[Tensor, "state row d_model"]:
    each = [CleanRun.of(model, row, check=not n).states[:, config.skip :] for n, row in enumerate(rows)]
    return torch.cat(each, 1).float()


Map = tuple[Float[Tensor, "out d_model"], Float[Tensor, " out"]]  # I + A, b


def _trained(
    model: Bridge,
    config: TunedConfig,
    states: Float[Tensor, "row d_model"],
    final: Float[Tensor, "row d_model"],
    above: Map,
) -> Map:
    """One layer's translator, from the better of two beginnings."""
    width = states.shape[-1]
    generator = torch.Generator().manual_seed(config.seed)
    judges = torch.randperm(len(states), generator=generator)[:ROWS].to(states.device)

    def worth(each: Map) -> float:
        with torch.no_grad():
            matrix, bias = (part.to(states) for part in each)
            return float(_divergence(model, states[judges] @ matrix.T + bias, final[judges]))

    begin = min(((torch.eye(width), torch.zeros(width)), above), key=worth)
    return min((begin, _descended(model, config, states, final, begin, generator)), key=worth)


def _divergence(model: Bridge, moved: Float[Tensor, "row d_model"], final: Float[Tensor, "row d_model"]) -> Tensor:
    """The mean of KL(final || lens), in nats."""
    read, dtype = readout(model).logits, model.unembed.original_component.weight.dtype
    said, own = (read(each.to(dtype)).float().log_softmax(-1) for each in (moved, final))
    return torch.nn.functional.kl_div(said, own, reduction="batchmean", log_target=True)


def _descended(
    model: Bridge, config: TunedConfig, states: Tensor, final: Tensor, begin: Map, generator: torch.Generator
) -> Map:
    """Where the steps lead from a beginning."""
    matrix, bias = (each.to(states) for each in begin)
    moved = states @ matrix.T + bias
    size, mean = moved.pow(2).mean(0).sqrt(), states.mean(0)
    spread = (states - mean).pow(2).mean(0).sqrt() + 1e-6 * states.pow(2).mean().sqrt()
    turn, shift = (torch.zeros_like(each, requires_grad=True) for each in (matrix, bias))
    descent = torch.optim.Adam([turn, shift], lr=config.rate)
    for step in range(config.steps):
        descent.param_groups[0]["lr"] = config.rate * (1 - step / config.steps)
        which = torch.randperm(len(states), generator=generator)[: config.rows].to(states.device)
        with torch.enable_grad(), without_gradients(model):
            unit = (states[which] - mean) / spread
            loss = _divergence(model, moved[which] + size * (unit @ turn.T + shift), final[which])
            turn.grad, shift.grad = torch.autograd.grad(loss, [turn, shift])
        descent.step()
    with torch.no_grad():
        scaled = size[:, None] * turn / spread
        return (matrix + scaled).cpu(), (bias + size * shift - scaled @ mean).cpu()
