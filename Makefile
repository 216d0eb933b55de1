# Two commands on a fresh machine: `make demo` runs the main job on real data, `make test` passes the tests.
PYTHON ?= python3.11
OUT ?= out
VENV := .venv
AUDITOR := .venv-auditor
BIN := $(VENV)/bin

.PHONY: setup demo demo-full test test-slow law-differential law-mutations law-docs lint bench clean

# Compiled once, on all cores: the demo and the tests start hundreds of processes, and not every environment lets them
# keep bytecode. A file that does not compile is none that is imported; what nothing here imports, near half, is left out.
UNUSED := /tests?/|/transformers/models/(?!__init__|auto|bert|bloom|deberta|encoder_decoder|gpt2|vit)|/fhir/resources/(?!R4B)
UNUSED := $(UNUSED)|/site-packages/(fontTools|mypyc?|networkx|pip|sentence_transformers|setuptools|websockets)/
COMPILE = -m compileall -qq -j 0 -x '$(UNUSED)'

setup:
	@$(MAKE) --no-print-directory --jobs 2 $(VENV)/.ready $(AUDITOR)/.ready
	@$(BIN)/python -m compileall -q residency.py bench client compliance demo server strategies

PIP = pip install --no-compile --quiet --disable-pip-version-check

# constraints.txt is all that `.[dev]` needs beside torch for the CPU: without resolving it is installed in half the
# time. Whatever else another system or another torch needs is then resolved.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	{ $(BIN)/$(PIP) --no-deps --requirement constraints.txt && $(BIN)/$(PIP) --no-deps --editable . && \
		$(BIN)/pip check --quiet; } || $(BIN)/$(PIP) --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python $(COMPILE) $(VENV)/lib || true
	touch $@

# The auditor's install: no torch, no flwr. The demo verifies its release with it.
$(AUDITOR)/.ready: pyproject.toml constraints.txt $(wildcard compliance/*.py compliance/*/*.py compliance/*/*/*.yaml)
	$(PYTHON) -m venv $(AUDITOR)
	$(AUDITOR)/bin/$(PIP) --constraint constraints.txt .
	@$(AUDITOR)/bin/python $(COMPILE) $(AUDITOR)/lib || true
	touch $@

demo: setup
	$(BIN)/residency demo --out $(OUT)

demo-full: setup
	$(BIN)/residency demo --full --out $(OUT)

# Three workers on two cores: a quarter of the tests' time is waiting for other processes.
test: setup
	$(BIN)/python -m pytest -m "not slow and not demo" --numprocesses 3 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m demo tests/integration/test_demo_acceptance.py

test-slow: setup
	$(BIN)/python -m pytest -m slow

# The two evaluators against each other on 100,000 cases; every slip in packs and shared code; the pages on packs again.
law-differential: setup
	$(BIN)/python -m pytest -m slow tests/properties/test_law_differential.py

law-mutations: setup
	$(BIN)/python -m pytest -m slow tests/properties/test_law_mutations.py

law-docs: setup
	RESIDENCY_WRITE_DOCS=1 $(BIN)/python -m pytest tests/unit/law/test_law_docs.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/residency bench log --json
	$(BIN)/residency bench law --json
	$(BIN)/residency bench round --json
	$(BIN)/residency bench dp --json
	$(BIN)/residency bench recipe --runs 1 --json

clean:
	rm -rf $(VENV) $(AUDITOR) out build dist .mypy_cache .ruff_cache .pytest_cache
