# make help lists the targets.

# Python for the environment: the first that is 3.11 or newer. Another one: PYTHON=python3.12 make setup
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Folder or index with CPU builds of torch, for indexes that serve a CUDA build (gigabytes) by default.
TORCH_INDEX ?=
# Folder of your own clips for the quickstart; empty: fetch some.
CLIPS ?=
# More arguments for pytest, for instance ARGS='-k cli -x'.
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CURATION := $(VENV)/.installed-curation
# pip compiles one file after another and all of them, which takes longer than the rest; these few nobody imports.
NOT_COMPILED := /(tests?|transformers/models/(?!auto|t5)|diffusers/pipelines)/

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint format

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1\t/' | expand -t 14

setup: $(INSTALLED)  ## make .venv with everything that the other targets need

$(INSTALLED): requirements/runtime.txt requirements/dev.txt setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python of 3.11 or newer found; accepted: PYTHON=/path/to/python make setup"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
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

lint: $(CURATION)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## let ruff mend what it can, and write the documentation's tables of flags
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/generate_flags.py
