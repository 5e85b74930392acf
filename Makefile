# `make describe` and `make test` are all the set-up there is: each makes .venv and installs what it needs first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: describe test clean

describe: $(VENV)/.installed
	$(RUN) describe.py

test: $(VENV)/.installed-for-tests
	$(RUN) -m pytest -n 2

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "milan needs Python 3.11 or newer; say which, as in: make describe PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(RUN)
	$(RUN) -m pip install --disable-pip-version-check --quiet --editable .
	@touch $@

$(VENV)/.installed-for-tests: pyproject.toml | $(RUN)
	$(RUN) -m pip install --disable-pip-version-check --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build milan.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
