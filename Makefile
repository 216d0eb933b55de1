# Two commands on a fresh machine: `make demo` runs the main job on real data, `make test` passes the tests.
PYTHON ?= python3.11
OUT ?= out
VENV := .venv
AUDITOR := .venv-auditor
BIN := $(VENV)/bin

.PHONY: setup demo demo-full test test-slow law-differential law-mutations law-docs lint bench clean

# Bytecode is kept, whatever the environment says: the demo and the tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

# What is imported is compiled beforehand, on all cores. A file that does not compile is none that is imported; what
# nothing here imports, more than half, is left out.
UNUSED := /(tests?|testing|benchmarks|SelfTest)/|/transformers/models/(?!__init__|auto|bert|bloom|deberta|encoder_decoder|gpt2|vit)
UNUSED := $(UNUSED)|/fhir/resources/(?!R4B)|/torch/(_inductor|_vendor)/|/sympy/(physics|combinatorics|parsing|stats)/
UNUSED := $(UNUSED)|/sqlalchemy/dialects/(postgresql|mysql|mssql|oracle)/|/(pygments/lexers|numpy/distutils|pydantic/v1)/
UNUSED := $(UNUSED)|/huggingface_hub/(cli|inference)/|/transformers/(exporters|pipelines)/
UNUSED := $(UNUSED)|/site-packages/(dns|fontTools|mpl_toolkits|mypyc?|networkx|pip|prompt_toolkit|sentence_transformers|setuptools|wcwidth|websockets)/
COMPILE = -m compileall -qq -j 0 -x '$(UNUSED)'

setup:
	@$(MAKE) --no-print-directory --jobs 2 $(VENV)/.ready $(AUDITOR)/.ready
	@$(BIN)/python -m compileall -q residency.py bench client compliance demo server strategies

# The pip that comes with Python 3.11 is old and slow: constraints.txt's replaces it first.
PIP = pip install --no-compile --quiet --disable-pip-version-check

# constraints.txt is all that `.[dev]` needs beside torch for the CPU: without resolving, and in two halves at once, it
# is installed in a third of the time. Whatever else another system or another torch needs is then resolved.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) --constraint constraints.txt pip
	{ $(MAKE) --no-print-directory half-0 half-1 && $(BIN)/$(PIP) --no-deps --editable . && \
		$(BIN)/pip check --quiet; } || $(BIN)/$(PIP) --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python $(COMPILE) $(VENV)/lib || true
	touch $@

half-%:
	@awk 'NR % 2 == $*' constraints.txt > $(VENV)/$@.txt
	$(BIN)/$(PIP) --no-deps --requirement $(VENV)/$@.txt

# The auditor's install: no torch, no flwr. The demo verifies its release with it.
$(AUDITOR)/.ready: pyproject.toml constraints.txt $(wildcard compliance/*.py compliance/*/*.py compliance/*/*/*.yaml)
	$(PYTHON) -m venv $(AUDITOR)
	$(AUDITOR)/bin/$(PIP) --constraint constraints.txt pip
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
