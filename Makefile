# make demo   set up, and watch the main job from end to end
# make test   set up, and run the unit and integration tests, with real parts
# make e2e    set up, and run the demo and the quick start as tests (longer)
PYTHON ?= python3
BIN := .venv/bin
KEEP ?=
TESTS ?= tests/unit tests/integration

.PHONY: help setup demo test e2e check format generate

help:
	@sed -n 's/^# make/make/p' Makefile

setup:
	@$(PYTHON) scripts/setup.py

demo: setup
	@exec $(BIN)/python -m groundtune_local.demo $(if $(KEEP),--keep)

test: setup
	@exec $(BIN)/python -m pytest $(TESTS)

e2e: setup
	@exec $(BIN)/python -m pytest tests/e2e

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy core operator flows services local
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/groundtune crds --check

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

generate: setup
	@$(BIN)/groundtune crds
