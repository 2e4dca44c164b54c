"""From a sentence to a picture: the causal trace and the logit lens of one fact, saved and drawn together."""

from dataclasses import dataclass
from pathlib import Path

from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt
from factscope.plots.page import write_page
from factscope.plots.show import shown
from factscope.plots.specs import Page
from factscope.progress import progress
from factscope.runs import store
from tracing.causal import Config, cells_of, trace
from tracing.logit_lens import Norm, lens
from tracing.pages import logit_lens
from tracing.pages import trace as pages
from tracing.results import LensResult, TraceResult


@shown(page="studies.trace:TraceStudy.page", words="studies.trace:TraceStudy.in_words")
@dataclass(frozen=True, eq=False)
class TraceStudy:
    """What `trace` saves: the trace and the lens of one prompt."""

    trace: TraceResult
    lens: LensResult

    def page(self) -> Page:
        """The page that shows both."""
        return pages.page(self.trace, self.lens)

    def in_words(self) -> list[str]:
        """What a terminal shows."""
        return [*pages.words(self.trace), *logit_lens.words(self.lens)]

    def save(self, folder: str | Path, light: bool = False) -> Path:
        """Write result.json, result.safetensors and page.html into `folder`; gives the page's path."""
        store.save(self, folder)
        return write_page(self.page(), Path(folder) / "page.html", light=light)


def trace_study(
    model: Bridge, prompt: Prompt, config: Config = Config(), norm: Norm = "per-state", shown: bool | None = None
) -> TraceStudy:
    """Trace `prompt`, then read the same answer with the lens. Raises what `trace` raises."""
    with progress("tracing", cells_of(model, prompt, config), shown=shown) as advance:
        result = trace(model, prompt, config, advance=advance)
    return TraceStudy(result, lens(model, result.prompt, norm))
