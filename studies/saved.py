"""A run folder as every recipe leaves it: the result, from which all can be drawn again, and its page."""

from pathlib import Path
from typing import Any

from factscope.plots.page import write_page
from factscope.plots.show import page_of
from factscope.runs import store


def save_with_page(result: Any, folder: str | Path, light: bool = False) -> Path:
    """Write result.json, result.safetensors and page.html into `folder`; gives the page's path."""
    store.save(result, folder)
    return write_page(page_of(result), Path(folder) / "page.html", light=light)
