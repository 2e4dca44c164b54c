"""Methods judged side by side on a benchmark."""
