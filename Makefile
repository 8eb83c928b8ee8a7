# nacre: the commands of a developer and of a first-time user. Every target makes the environment it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
QUICK := tests/functional tests/methods/test_contract.py -k '(functional and not bart and not gpt2 and not llama) or (test_contract and t5)'
# Python compiles what it imports when it imports it; compiling every installed file first takes longer than the demo.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile

.PHONY: install demo quick test test-long check docs bench clean

install: $(VENV)/.installed

# torch goes first and alone: another package must never choose its build.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("nacre needs Python 3.11 or newer: make PYTHON=python3.11 install" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/nacre demo

test: check
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile

# The mathematics and the contract table on one family: no recipe, no subprocess.
quick: install
	$(BIN)/pytest $(QUICK)

test-long: install
	$(BIN)/pytest -m long

check: install
	$(BIN)/ruff format --check src tests benchmarks experiments examples website
	$(BIN)/ruff check src tests benchmarks experiments examples website
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install
	$(BIN)/python website/build.py

bench: install
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py --output bench/t5-small

clean:
	rm -rf $(VENV) build dist nacre-demo .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
