# trimtab: `make demo` shows a diagnosis, `make test` proves the code. Both need python3 >= 3.11 only.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
RUNS ?= runs

.PHONY: setup demo test check twins interop format clean
.DEFAULT_GOAL := demo

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("trimtab needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; say make PYTHON=python3.11") if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing trimtab into .venv (2 to 4 minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/trimtab demo --out $(RUNS) $(if $(MODEL),--model "$(MODEL)") $(if $(DATA),--data "$(DATA)")

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest

twins: setup
	@$(BIN)/python jobs/diagnose.py sweeps/diagnose-23-twins.yaml "out=$(abspath $(RUNS))"

interop: setup .interop/.ready
	@$(BIN)/python benchmarks/interop.py

# torchvision comes along with a build of its own, and transformers fails on one that does not fit.
.interop/.ready: benchmarks/peers.txt constraints.txt
	@test -x .interop/bin/python || $(PYTHON) -m venv .interop
	@echo "Installing sae-lens, sparsify and dictionary-learning into .interop (2 minutes)"
	@.interop/bin/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt) --requirement benchmarks/peers.txt
	@.interop/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .interop runs .pytest_cache .ruff_cache .hypothesis
