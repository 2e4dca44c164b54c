"""From a sentence to a picture: the causal trace and the logit lens of one fact, saved and drawn together.

Where they are asked for, the knowledge neurons of the same fact stand beside them.
"""

from dataclasses import dataclass

from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.results.result import Result
from tracing.causal import Config, cells_of, trace
from tracing.logit_lens import Norm, lens
from tracing.neurons import Config as NeuronConfig
from tracing.neurons import layers_of, neurons
from tracing.results import LensResult, NeuronResult, TraceResult


@shown("studies.pages.trace")
@dataclass(frozen=True, eq=False)
class TraceStudy(Result):
    """What `trace` saves: the trace and the lens of one prompt, and its knowledge neurons where they were asked for."""

    trace: TraceResult
    lens: LensResult
    neurons: NeuronResult | None = None


def trace_study(
    model: Bridge,
    prompt: Prompt,
    config: Config = Config(),
    norm: Norm = "per-state",
    *,
    neuron_config: NeuronConfig | None = None,
    shown: bool | None = None,
) -> TraceStudy:
    """Trace `prompt`, read the same answer with the lens, and with a `neuron_config` find the neurons that carry it.

    Raises what `trace` and `neurons` raise.
    """
    with progress("tracing", cells_of(model, prompt, config), shown=shown) as advance:
        result = trace(model, prompt, config, advance=advance)
    read = lens(model, result.prompt, norm)
    if neuron_config is None:
        return TraceStudy(result, read)
    with progress("neurons, layer by layer", layers_of(model, result.prompt, neuron_config), shown=shown) as advance:
        return TraceStudy(result, read, neurons(model, result.prompt, neuron_config, advance=advance))
