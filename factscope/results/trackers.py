"""A result in a tracker of experiments: one function of three arguments, and two adapters that call a library's own.

A `Hook` takes the name of a run, its settings, and its numbers. Anything that can be called so is a hook; "wandb" and
"mlflow" name the adapters. Neither library is needed for anything else, and where it logs to is its own setting.
"""

import importlib
import numbers
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Protocol

from factscope.errors import ArgumentError, StoreError, UserError
from factscope.plots.show import records_of, summary_of
from factscope.results.result import Result


class Hook(Protocol):
    """What a tracker is to us."""

    def __call__(self, name: str, settings: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
        """Log one result."""


def log(
    result: Any, to: "str | Hook", name: str | None = None, settings: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Log a result's provenance and the numbers of its summary; `to` is "wandb", "mlflow" or a hook of your own.

    `settings` stand beside the provenance; a command gives its options. Raises ArgumentError for what is no result,
    UserError for another name or where the library is not installed, and StoreError where it does not take the numbers.
    """
    if not isinstance(result, Result):
        raise ArgumentError(
            f"fs.log: a value of type {type(result).__name__} is no result: give what a call of fs returned"
        )
    hook = HOOKS.get(to) if isinstance(to, str) else to
    if hook is None:
        raise UserError(f"there is no tracker {to!r}; choose {' or '.join(HOOKS)}, or give a function")
    run = _run_of(result)
    told = {"kind": type(result).__name__} | {
        key: getattr(run, key) for key in ("model", "source", "fingerprint", "seed", "command") if hasattr(run, key)
    }
    try:
        hook(name or type(result).__name__, {**settings, **told}, numbers_of(result))
    except UserError:
        raise
    except Exception as trouble:  # the network, the login and the server of a tracker each raise their own
        if not isinstance(to, str):
            raise  # the caller's own function, and the caller's own trouble
        why = " ".join(str(trouble).split())[:200] or type(trouble).__name__
        raise StoreError(f"{to} did not take the numbers ({why}); the result itself is as it was") from trouble


def _run_of(result: Any) -> Any:
    """The provenance of a result, or of the first of its parts that has one; None where none has."""
    own = getattr(result, "run", None)
    inside = (getattr(getattr(result, field.name), "run", None) for field in fields(result))
    return own if own is not None else next((one for one in inside if one is not None), None)


def numbers_of(result: Any) -> dict[str, float]:
    """The numbers of a result's summary by name; of a result without a summary how many rows its table has."""
    try:
        return flat(summary_of(result))
    except AttributeError:  # no command prints this result for programs
        return {"rows": float(len(records_of(result)))}


def flat(said: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """The numbers in a summary, those inside others named by a path: {"a": {"b": 1}} is {"a/b": 1.0}.

    A list of scores is named by what each is of: [{"metric": "ES", "when": "after", "value": 1}] is {"ES/after": 1.0}.
    """
    out: dict[str, float] = {}
    for key, value in said.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{before}{key}/")
        elif isinstance(value, list):
            scores = [one for one in value if isinstance(one, Mapping) and {"metric", "value"} <= set(one)]
            out |= flat({_of(one): one["value"] for one in scores}, f"{before}{key}/")
        elif isinstance(value, numbers.Real) and not isinstance(value, bool):
            out[f"{before}{key}"] = float(value)
    return out


def _of(score: Mapping[str, Any]) -> str:
    """What a score is of."""
    return "/".join(str(score[name]) for name in ("method", "metric", "when") if score.get(name))


def to_wandb(name: str, settings: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
    """A run of Weights & Biases in the project of WANDB_PROJECT, or of the run that is active there."""
    wandb = _library("wandb")
    if wandb.run is not None:
        wandb.run.summary.update({f"{name}/{key}": value for key, value in numbers.items()})
        return
    with wandb.init(name=name, config=dict(settings)) as run:
        run.summary.update(dict(numbers))


def to_mlflow(name: str, settings: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
    """A run of MLflow at MLFLOW_TRACKING_URI, below the run that is active there."""
    mlflow = _library("mlflow")
    with mlflow.start_run(run_name=name, nested=mlflow.active_run() is not None):
        mlflow.log_params({key: str(value)[:500] for key, value in settings.items()})
        allowed = {"".join(sign if sign.isalnum() or sign in "_-. /" else "_" for sign in key): value
                   for key, value in numbers.items()}  # fmt: skip
        mlflow.log_metrics(allowed)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"logging to {name} needs its library: pip install {name}") from None


HOOKS: dict[str, Hook] = {"wandb": to_wandb, "mlflow": to_mlflow}
