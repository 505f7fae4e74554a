# make demo   set up, and watch the main job from end to end
# make test   set up, and run all tests, with real parts (some of them: make test TESTS=tests/unit)
# make bench-NAME  compare with peers, in one run: ingest, load, query, recall or refresh; memory
PYTHON ?= python3
BIN := .venv/bin
KEEP ?=
TESTS ?=

.PHONY: help setup peers demo test check format generate

help:
	@sed -n 's/^# make/make/p' Makefile

setup:
	@$(PYTHON) scripts/setup.py

peers: setup
	@$(PYTHON) scripts/setup.py --peers

bench-%: peers
	@exec $(BIN)/python -m benchmarks.$*

demo: setup
	@exec $(BIN)/python -m groundtune_local.demo $(if $(KEEP),--keep)

# Tests that wait for processes share the cores well; the demo's path needs both to itself.
test: setup
ifeq ($(strip $(TESTS)),)
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/unit tests/integration
	@exec $(BIN)/python -m pytest tests/e2e
else
	@exec $(BIN)/python -m pytest $(TESTS)
endif

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy core operator flows services local benchmarks
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/groundtune crds --check

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

generate: setup
	@$(BIN)/groundtune crds
