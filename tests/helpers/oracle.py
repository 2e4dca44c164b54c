"""What plain transformers says: forward passes of the original modules with PyTorch's own hooks, and nothing of ours.

The modules are found by name: the wrapped model's parts carry the original ones, at the place that they have in the
plain model too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]


def module_of(model: Any, plain: Any, part: Any) -> Any:
    """The module of `plain` that `part`, of the wrapped `model`, is made of."""
    original = part.original_component
    name = next(name for name, module in model.original_model.named_modules() if module is original)
    return plain.get_submodule(name.replace("._original_component", ""))


@contextmanager
def changed(changes: Sequence[tuple[Any, Change]]) -> Iterator[None]:
    """Each module's output (the first, where it gives several) passes through its function."""
    with ExitStack() as stack:
        for module, change in changes:

            def hook(_: Any, __: Any, out: Any, change: Change = change) -> Any:
                return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

            stack.callback(module.register_forward_hook(hook).remove)
        yield


@contextmanager
def reading(module: Any, change: Change) -> Iterator[None]:
    """The module's input passes through the function."""
    handle = module.register_forward_pre_hook(lambda _, given: (change(given[0]), *given[1:]))
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def outputs(plain: Any, tokens: Tensor, modules: Sequence[Any]) -> tuple[Tensor, list[Tensor]]:
    """Logits, and what each module gives."""
    seen: dict[int, Tensor] = {}

    def keeper(number: int) -> Change:
        def keep(out: Tensor) -> Tensor:
            seen[number] = out.clone()
            return out

        return keep

    with changed([(module, keeper(number)) for number, module in enumerate(modules)]):
        logits = plain(tokens, use_cache=False).logits
    return logits, [seen[number] for number in range(len(modules))]


@torch.no_grad()
def restored(plain: Any, prompt: Any, noise: Tensor, module: Any, position: int, embed: Any) -> tuple[Tensor, Tensor]:
    """Probability of the answer, [sample], with noise on the subject, and with one module's output clean again."""
    tokens = torch.tensor([prompt.tokens])
    _, (clean,) = outputs(plain, tokens, [module])

    def noised(out: Tensor) -> Tensor:
        out = out.clone()
        out[:, slice(*prompt.subject_span)] += noise
        return out

    def cleaned(out: Tensor) -> Tensor:  # [row, pos, d_model], or with the first two as one
        shape, out = out.shape, out.clone().view(len(noise), -1, out.shape[-1])
        out[:, position] = clean.view(1, -1, clean.shape[-1])[:, position]
        return out.view(shape)

    rows, noisy = tokens.repeat(len(noise), 1), (embed, noised)
    said = []
    for changes in ([noisy], [noisy, (module, cleaned)]):
        with changed(changes):
            said.append(plain(rows, use_cache=False).logits[:, -1].softmax(-1)[:, prompt.answer_ids[0]])
    return said[0], said[1]


@torch.no_grad()
def mean_nll(plain: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """-log p of the answer, mean over its tokens, nats."""
    logp = plain(torch.tensor([[*prompt, *answer[:-1]]]), use_cache=False).logits[0].log_softmax(-1)
    return -float(logp[len(prompt) - 1 :].gather(1, torch.tensor(answer)[:, None]).mean())
