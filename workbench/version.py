"""The version, in this one place; `pyproject.toml` and the commands read it from here."""

VERSION = "0.1.0"
