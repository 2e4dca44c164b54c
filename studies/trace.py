"""From a sentence to a picture: the causal trace and the logit lens of one fact, saved and drawn together."""

from dataclasses import dataclass

from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt
from factscope.plots.show import shown
from factscope.progress import progress
from tracing.causal import Config, cells_of, trace
from tracing.logit_lens import Norm, lens
from tracing.results import LensResult, TraceResult


@shown("studies.pages.trace")
@dataclass(frozen=True, eq=False)
class TraceStudy:
    """What `trace` saves: the trace and the lens of one prompt."""

    trace: TraceResult
    lens: LensResult


def trace_study(
    model: Bridge, prompt: Prompt, config: Config = Config(), norm: Norm = "per-state", shown: bool | None = None
) -> TraceStudy:
    """Trace `prompt`, then read the same answer with the lens. Raises what `trace` raises."""
    with progress("tracing", cells_of(model, prompt, config), shown=shown) as advance:
        result = trace(model, prompt, config, advance=advance)
    return TraceStudy(result, lens(model, result.prompt, norm))
