# make demo | test | check | bench | prove | venv | lock; each makes its own virtual environment first.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& command -v $$p && break; done)
BIN := .venv/bin

.PHONY: help venv tools demo test check bench prove lock wheel wheel-demo clean
help:
	@echo "make demo         the main job on this machine, start to proof (KEEP=1 keeps the Prefect UI up)"
	@echo "make test         all tests (peers that are not installed are skipped by name)"
	@echo "make check        ruff, pyright and the import rule"
	@echo "make bench        ours beside DCMTK, as ratios"
	@echo "make prove        long proofs: kills, bit rot, a full disk; resumable, at most an hour"
	@echo "make wheel        dist/backupdr-*.whl"

venv: .venv/ready
tools: .venv/tools

.venv/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and was not found; install it (Debian: apt install python3 python3-venv)." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing; install it (Debian: apt install python3-venv)." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Making .venv with $$($(PYTHON) --version)"; $(PYTHON) -m venv .venv; }
	@echo "Installing the locked packages (a minute or two, the first time only)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock 2> >(grep -v '^WARNING: Location' >&2)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

.venv/tools: .venv/ready requirements-dev.lock
	@echo "Installing the test tools"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

demo: venv
	@$(BIN)/backupdr demo $(if $(KEEP),--keep)

# Peers listen on every address, so the tests run in a network namespace with only a loopback where we may
# make one; elsewhere they run as they are.
ISOLATE := $(shell if [ "$$(id -u)" = 0 ] && unshare -n sh -c 'ip link set lo up' 2>/dev/null; then echo "unshare -n sh -c 'ip link set lo up && exec \"\$$@\"' sh"; fi)

test: tools
	@$(ISOLATE) $(BIN)/python -m tests.together $(ARGS)

check: tools
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/python -m pytest -q tests/test_architecture.py

bench: tools
	@$(ISOLATE) $(BIN)/python -m benchmarks $(ARGS)

prove: tools
	@$(ISOLATE) $(BIN)/python -m tests.prove $(ARGS)

# For maintainers, with uv: write the locks again, with hashes and without addresses.
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras -q
lock:
	$(LOCK) pyproject.toml --group build -o requirements.lock
	$(LOCK) --group dev -c requirements.lock -o requirements-dev.lock

wheel: venv
	@rm -rf dist
	@$(BIN)/python -m hatchling build -t wheel -d dist

# As someone would who has the wheel and the lock, and no checkout: an empty environment, another folder.
wheel-demo: wheel
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT \
	&& $(PYTHON) -m venv "$$folder/venv" \
	&& "$$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock \
	&& "$$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps dist/*.whl \
	&& cd "$$folder" && venv/bin/backupdr demo

clean:
	rm -rf .venv dist build .pytest_cache .ruff_cache
