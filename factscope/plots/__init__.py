"""Pictures: specs are plain data, `render` draws them with plotly, `page` writes one HTML file that works offline."""
