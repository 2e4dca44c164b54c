"""Pictures: specs are plain data, `render` draws them with plotly, `page` writes one HTML file that works offline."""

import factscope.plots.show  # noqa: F401  (a spec that ends a notebook's cell shows itself, whoever made it)
