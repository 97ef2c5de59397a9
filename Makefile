# Everything a fresh clone needs: Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo examples docs notebooks test test-slow browser-test wheel-test lint format bench networks clean

demo: $(VENV)/installed
	$(BIN)/sentei demo

examples: $(VENV)/installed
	$(BIN)/python examples/pages.py

# The documentation as a site, in runs/site: open runs/site/index.html.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Run the notebooks again, and store what they print and draw.
notebooks: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check nbclient ipykernel
	$(BIN)/python docs/run_notebooks.py

# Files in alphabetical order: sorted by their number of tests, files of one long test would come last,
# for one worker, while the other has nothing left.
test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

browser-test: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests/test_browser.py

# The wheel alone: built, installed in a place of its own, and used from there. Another Python or
# torch: make wheel-test PYTHON=python3.13 TORCH=2.6.0
TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)
wheel-test:
	@set -e; apart=$$(mktemp -d); trap 'rm -rf "$$apart"' EXIT; \
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$$apart" .; \
	$(PYTHON) -m venv "$$apart/venv"; cp tests/smoke.py "$$apart"; cd "$$apart"; \
	venv/bin/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH) *.whl; \
	env -u PYTHONPATH PYTHONWARNINGS=error,ignore::ResourceWarning venv/bin/python smoke.py

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
	$(BIN)/python benchmarks/growth.py

# Networks of other libraries, in an environment of its own (6 GB). Takes hours; what is measured
# already is kept, so it may be stopped and called again. Writes docs/networks.md.
NETWORKS := .venv-networks
networks: $(NETWORKS)/installed
	$(NETWORKS)/bin/python benchmarks/networks.py

clean:
	rm -rf $(VENV) $(NETWORKS)

$(NETWORKS)/installed: benchmarks/networks_requirements.txt
	$(PYTHON) -m venv $(NETWORKS)
	$(NETWORKS)/bin/python -m pip install --quiet --disable-pip-version-check -r $< -e .
	touch $@

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "sentei needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@
