"""The commands of `trace` beside `trace` itself, a file for each."""
