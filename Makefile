# Metergate. `make demo` shows it, `make test` proves it; both set up all they need.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EVM := settlement/parallel-evm
EVM_SOURCES := $(shell find $(EVM)/src -name '*.rs' 2>/dev/null) $(wildcard $(EVM)/*.toml $(EVM)/*.lock $(EVM)/*.pyi)
WEB := gateway/web
WEB_SOURCES := $(shell find $(WEB)/ui -type f -not -path '*/node_modules/*' 2>/dev/null)

.PHONY: help demo test lint bench soak crash screenshots web setup setup-dev clean
help:
	@echo "make demo [ARGS=\"--duration 60\"]   devices, payments, settlement: everything on this machine"
	@echo "make test                           every check and test, set-up included"
	@echo "make lint                           formatting, types and layers only"
	@echo "make bench [SUITE=first_payment]    measure; table on the terminal, JSON in benchmarks/results/"
	@echo "make soak [MINUTES=60]              mixed load with storms and settlements; fails if anything grows or is lost"
	@echo "make screenshots                    the pictures of the documentation, from a running demo"
	@echo "make crash [N=200] [SEED=1]         kill a gateway N times; fails if a unit is ever lost or paid twice"

demo: setup
	@$(BIN)/metergate demo $(ARGS)

test: setup-dev
	@$(BIN)/python tests/run.py

lint: setup-dev
	@$(BIN)/python tests/run.py lint

bench: setup-dev
	@$(BIN)/python -m benchmarks $(if $(SUITE),--suite $(SUITE))

soak: setup-dev
	@$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),60)

crash: setup-dev
	@$(BIN)/python -m tests.crash --kills $(or $(N),200) $(if $(SEED),--seed $(SEED))

setup: $(VENV)/.package web
setup-dev: $(VENV)/.dev $(VENV)/.package $(VENV)/.system $(WEB)/dist/index.html

$(VENV)/.python:
	@$(PYTHON) .ci/check_python.py
	@echo "== virtual environment in $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: requirements.lock | $(VENV)/.python
	@echo "== dependencies" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock >&2
	@touch $@

$(VENV)/.dev: requirements-dev.lock | $(VENV)/.python
	@echo "== dependencies of the tests" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock >&2
	@touch $@ $(VENV)/.runtime

# The embedded execution layer is compiled here once; later builds only compile what changed.
$(VENV)/.evm: $(EVM_SOURCES) | $(VENV)/.runtime
	@command -v cargo >/dev/null || { echo "metergate: a Rust toolchain (cargo 1.91 or later) is needed: install rustup, then run this again" >&2; exit 2; }
	@echo "== building the embedded execution layer (Rust; some minutes the first time)" >&2
	@started=$$(date +%s); \
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall ./$(EVM) >&2 \
	&& echo "   built in $$(( $$(date +%s) - started )) s" >&2
	@touch $@

$(VENV)/.package: pyproject.toml firmware-sim/pyproject.toml $(VENV)/.evm | $(VENV)/.runtime
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e firmware-sim >&2
	@touch $@

$(VENV)/.system: package-lock.json .ci/system .ci/node | $(VENV)/.python
	@.ci/system $(BIN)
	@touch $@

# The demo starts without the pages, too: it then says so on `/`. The tests want them.
web: | $(VENV)/.runtime
	@$(MAKE) -s --no-print-directory $(WEB)/dist/index.html || echo "metergate: going on without the dashboard's pages" >&2

$(WEB)/dist/index.html: $(WEB_SOURCES) .ci/web .ci/node | $(VENV)/.runtime
	@echo "== building the dashboard's pages" >&2
	@.ci/web $(BIN)
	@touch $@

screenshots: setup-dev
	@$(BIN)/python -m tests.web_ui.screenshots

clean:
	rm -rf $(VENV) node_modules $(WEB)/dist $(WEB)/ui/node_modules $(EVM)/target .mypy_cache .ruff_cache .pytest_cache .hypothesis
