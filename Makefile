# Everything installs into .venv; nothing but Python 3.11+ and make is needed to start.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# CPU builds of PyTorch come in the plain wheel here; set TORCH to another requirement where they do not.
TORCH ?= torch==2.13.0
# An interpreter that has xoscar and ray, to be measured beside ours: make bench PEERS=PYTHON
PEERS ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test faults format lint type bench docs wheel gpu-check clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/installed: pyproject.toml
	@echo "installing flashactor into $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flashactor needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "installing what the tests need"
	@$(PIP) --editable '.[dev]' '$(TORCH)'
	@touch $@

run: $(VENV)/installed  ## send a real attention layer through the actor; print and write the results
	@$(BIN)/python examples/run_sample.py

# A process for each core, and no threads of the numerical libraries besides: they would wait for each other. A
# file is one process's, in the order of their names: its tests share kernels, and the longest do not come last.
test: lint type  ## ruff, mypy --strict and every test
	@OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

faults: $(VENV)/installed-dev  ## plant every fault into the kernels, not only the part that `test` takes
	@EVERY_FAULT=1 $(BIN)/python -m pytest -n auto tests/mutation

format: $(VENV)/installed-dev  ## rewrite the sources in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lint: $(VENV)/installed-dev  ## ruff
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

type: $(VENV)/installed-dev  ## mypy --strict
	@$(BIN)/mypy

bench: $(VENV)/installed-dev  ## every benchmark that needs no GPU; results go to benchmarks/results/
	@$(BIN)/python -m benchmarks.dispatch $(if $(PEERS),--peers $(PEERS))
	@$(BIN)/python -m benchmarks.soak
	@$(BIN)/python -m benchmarks.cold_start
	@$(BIN)/python -m benchmarks.cubin_cache
	@$(BIN)/python -m benchmarks.install_size
	@$(BIN)/python -m benchmarks.emulator
	@$(BIN)/python -m benchmarks.sass_budget
	@$(BIN)/python -m benchmarks.specialisations

gpu-check: $(VENV)/installed  ## on a machine with a GPU: correctness on the hardware, then speed
	@$(BIN)/python -m benchmarks.gpu_check

docs: $(VENV)/installed  ## refresh the generated tables of README.md and docs/
	@$(BIN)/python -m flashactor.cli.tables --update README.md docs/kernels.md docs/emulator.md
	@$(BIN)/python tests/mutation/page.py

wheel: $(VENV)/installed-dev  ## build a wheel and try it away from the sources
	@$(BIN)/python -m build --wheel
	@$(BIN)/python tests/project/try_wheel.py dist

clean:  ## remove everything that was built, the virtual environment included
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis examples/output
	find cubin_cache -mindepth 1 ! -name README.md -delete
