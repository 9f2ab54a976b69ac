# `make demo` and `make test` need only python3 (3.11 or newer); every target creates .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
# Files go to the two workers in their own order: by number of tests, the long ones of few tests would come last.
IN_PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
INSTALLED := .venv/installed

.PHONY: demo test test-fast test-long test-device lint

demo: $(INSTALLED)
	$(BIN)/python -m fmdp.main --config=configs/digits.py
	$(BIN)/python -m fmdp.main --mode=restore --checkpoint=photos --input=docs/astronaut.png --output=runs/photograph \
	  --degrade --sigma_255=50 --sweep
	@echo "Open runs/digits/report.html and runs/photograph/astronaut.html in a browser, and move the sliders."

test: $(INSTALLED)
	$(BIN)/python -m pytest -q $(IN_PARALLEL)

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -q $(IN_PARALLEL) -m "not slow"

test-long: $(INSTALLED)
	$(BIN)/python -m pytest -q -s -m long
	seed=$$(date +%s); echo "exploring with --hypothesis-seed=$$seed"; \
	$(BIN)/python -m pytest -q -m hypothesis --hypothesis-profile=explore --hypothesis-seed=$$seed

# On the accelerator that JAX finds. Tolerances are those of float32, so products are computed in it.
test-device: $(INSTALLED)
	@$(BIN)/python -c 'import jax; print("on", *jax.devices())'
	JAX_DEFAULT_MATMUL_PRECISION=highest $(BIN)/python -m pytest -q -m "device and not long"

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
