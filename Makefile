# What a person at this repository does, each in one word. PY is the environment of the README's second command.
PY ?= .venv/bin/python

.PHONY: help test quick campaign lint format docs serve notebooks bench wheel

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

test:  ## everything; minutes
	$(PY) -m pytest

quick:  ## without the default model, a browser and notebooks
	$(PY) -m pytest -m "not default_model and not browser and not notebook"

campaign:  ## every campaign in full; docs/campaigns.md is what they found
	$(PY) -m tests.campaigns

lint:  ## what the suite's test_clean checks
	$(PY) -m ruff check && $(PY) -m ruff format --check && $(PY) -m mypy

format:  ## put the layout right, and what ruff can mend
	$(PY) -m ruff check --fix && $(PY) -m ruff format

docs:  ## the documentation into site/; any warning is an error
	$(PY) -m mkdocs build --strict

serve:  ## the documentation at http://127.0.0.1:8000, rebuilt as you write
	$(PY) -m mkdocs serve

notebooks:  ## run the notebooks on the default model and keep their outputs; minutes each
	$(PY) notebooks/run.py --save

bench:  ## the tracer's figures; benchmarks/README.md lists the others
	$(PY) benchmarks/trace_speed.py

wheel:  ## the package as one file in dist/
	$(PY) -m pip wheel --no-deps --wheel-dir dist .
