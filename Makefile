# `make demo` and `make test` need only python3 (3.11 or newer); every target creates .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test test-fast test-long lint

demo: $(INSTALLED)
	$(BIN)/python -m fmdp.main --config=configs/digits.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

test-long: $(INSTALLED)
	$(BIN)/python -m pytest -q -s -m long
	seed=$$(date +%s); echo "exploring with --hypothesis-seed=$$seed"; \
	$(BIN)/python -m pytest -q -m hypothesis --hypothesis-profile=explore --hypothesis-seed=$$seed

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fmdp needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@
