# make demo   set up, and watch the main job from end to end
# make test   set up, and run all tests: unit, integration with real parts, the demo and the quick start
PYTHON ?= python3
BIN := .venv/bin
KEEP ?=
TESTS ?= tests/unit tests/integration tests/e2e

.PHONY: help setup demo test check format generate

help:
	@sed -n 's/^# make/make/p' Makefile

setup:
	@$(PYTHON) scripts/setup.py

demo: setup
	@exec $(BIN)/python -m groundtune_local.demo $(if $(KEEP),--keep)

test: setup
	@exec $(BIN)/python -m pytest $(TESTS)

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
