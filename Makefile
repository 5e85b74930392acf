# `make describe`, `make test` and `make docs` set up everything they need: each creates .venv and installs into it first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: describe test suite lint docs benchmarks benchmarks-full clean

describe: $(VENV)/.installed
	$(RUN) describe.py

test: $(VENV)/.installed-for-tests
	@$(MAKE) --no-print-directory --jobs 2 lint suite

suite: $(VENV)/.installed-for-tests
	$(RUN) -m pytest -n 2 --dist worksteal

# Style, types, import layers and the examples in docstrings.
lint: $(VENV)/.installed-for-tests
	@$(RUN) -m ruff check --quiet . && $(RUN) -m ruff format --quiet --check .
	@$(VENV)/bin/lint-imports --no-cache >/dev/null || $(VENV)/bin/lint-imports --no-cache
	@$(RUN) -m mypy
	@$(RUN) -m pytest --doctest-modules milan -p no:cacheprovider -p no:xdist

docs: $(VENV)/.installed-for-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --config-file docs/site/mkdocs.yml
	@echo "the documentation is in build/site/index.html"

# Speed and memory relative to what the work cannot do without: benchmarks/README.md.
benchmarks: $(VENV)/.installed-for-tests
	$(RUN) -m benchmarks --scale 0.1

benchmarks-full: $(VENV)/.installed-for-tests
	$(RUN) -m benchmarks --scale 1

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "milan needs Python 3.11 or newer; say which, as in: make describe PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(RUN)
	$(RUN) -m pip install --disable-pip-version-check --quiet --editable .
	@touch $@

$(VENV)/.installed-for-tests: pyproject.toml | $(RUN)
	$(RUN) -m pip install --disable-pip-version-check --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-for-docs: pyproject.toml | $(RUN)
	$(RUN) -m pip install --disable-pip-version-check --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build milan.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
