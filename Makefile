# make help lists the targets.

# Python for the environment: that of an environment which is there, else the first of 3.11 and 3.12 that can make one.
# Another one: make setup PYTHON=python3.12
CANDIDATES = $(BIN)/python python3.11 python3.12 python3
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p requirements/check_python.py $(VENV) 2>/dev/null && echo $$p && break; done)
# Folder or index with CPU builds of torch, for indexes that serve a CUDA build (gigabytes) by default.
TORCH_INDEX ?=
# Folder of your own clips for the quickstart; empty: fetch some.
CLIPS ?=
# More arguments for pytest, for instance ARGS='-k cli -x'.
ARGS ?=

# Folder of the environment.
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CURATION := $(VENV)/.installed-curation
# pip compiles one file after another and all of them, which takes longer than the rest; these few nobody imports.
NOT_COMPILED := /(tests?|transformers/models/(?!auto|t5)|diffusers/pipelines)/

.DEFAULT_GOAL := help
.PHONY: help python setup quickstart test numerics interpreters lint format

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1\t/' | expand -t 14

# Asked each time: another PYTHON than that of an environment which is there must not be passed over in silence.
python:
	@test -n "$(PYTHON)" || { for p in $(CANDIDATES); do $$p requirements/check_python.py $(VENV) 2>&1; done | grep ^error: >&2; \
		echo "error: no Python found; accepted: Python 3.11 or 3.12, as make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@"$(PYTHON)" -c "" || { echo "error: PYTHON=$(PYTHON) does not start; accepted: Python 3.11 or 3.12" >&2; exit 2; }
	@"$(PYTHON)" requirements/check_python.py $(VENV)

setup: $(INSTALLED)  ## make .venv with everything that the other targets need

$(INSTALLED): requirements/runtime.txt requirements/dev.txt setup.py pyproject.toml | python
	$(BIN)/python -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) --find-links $(TORCH_INDEX)) -r requirements/dev.txt
	@$(BIN)/python -m compileall -qq -j 0 -x '$(NOT_COMPILED)' $(VENV)/lib || true
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Only tests and checks need what curation uses.
$(CURATION): $(INSTALLED) requirements/curation.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) --find-links $(TORCH_INDEX)) -r requirements/curation.txt
	touch $@

quickstart: setup  ## real clips -> shards -> trained CogVideoX (tiny) on 2 ranks -> sampled video; CLIPS=folder for your own
	PATH="$(CURDIR)/$(BIN):$$PATH" examples/quickstart/run.sh $(if $(CLIPS),"$(CLIPS)")

test: $(CURATION)  ## the whole test suite; ARGS='...' for pytest
	$(BIN)/python -m pytest -n 2 $(ARGS)

numerics: $(CURATION)  ## tests of numbers under other paths of MKL and torch, and with moved last bits
	PYTHON="$(BIN)/python" tests/numerics.sh $(ARGS)

interpreters:  ## the quick tests on each accepted Python that is found, and checkpoints of each read on the others
	tests/on_each_interpreter.sh $(ARGS)

lint: $(CURATION)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## let ruff mend what it can, and write the documentation's tables of flags
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/generate_flags.py
