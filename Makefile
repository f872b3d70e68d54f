# Two targets do everything: `make demo` and `make test`. Both need Python 3.11 or newer and git, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test bench clean
.DEFAULT_GOAL := test

demo: $(VENV)/demo.stamp
	$(BIN)/drtool demo

test: $(VENV)/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n auto --dist worksteal

# How fast beside other tools: SIZE of staged members (takes seven times that of disk), RUNS of each case.
RUNS ?= 5
SIZE ?= 2GiB
bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks.throughput --runs $(RUNS) --size $(SIZE)
	{ printf '\n## Judging one archive, in one process\n\n```\n'; $(BIN)/python -m benchmarks.judging; \
	  printf '```\n\n## Trying the secrets\n\n```\n'; $(BIN)/python -m benchmarks.secrets; printf '```\n\n## A whole restore over ssh\n\n```\n'; \
	  $(BIN)/python -m benchmarks.restore; printf '```\n'; } \
	  | tee -a benchmarks/results.md

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

$(VENV)/demo.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	touch $@

$(VENV)/test.stamp: pyproject.toml tests/install-programs | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	sh tests/install-programs
	touch $@

$(VENV)/bench.stamp: pyproject.toml benchmarks/install-peers | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	sh benchmarks/install-peers $(VENV)
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
