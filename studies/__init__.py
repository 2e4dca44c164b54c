"""The roof: recipes that join tracing, circuits and editing, and the commands."""
