# Everything a fresh clone needs: Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo examples test test-slow browser-test lint format bench clean

demo: $(VENV)/installed
	$(BIN)/sentei demo

examples: $(VENV)/installed
	$(BIN)/python examples/pages.py

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

browser-test: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests/test_browser.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/ablation.py
	$(BIN)/python benchmarks/tracing.py
	$(BIN)/python benchmarks/surface.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/repeats.py
	$(BIN)/python benchmarks/repairs.py

clean:
	rm -rf $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "sentei needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
