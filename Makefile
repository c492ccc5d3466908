# Two commands matter to a newcomer: `make quickstart` and `make test`. Both set up everything first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS := requirements/cpu.lock requirements/quickstart.lock
# Used only where the CPU build of PyTorch is not found by a plain install.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help install develop quickstart test faults soak check format monitoring prometheus clean

help:
	@echo "make quickstart   set up, then run the main job on the embedded default"
	@echo "make test         set up, then run every test"
	@echo "make faults       set up, run the drills of faults, print their table"
	@echo "make soak         set up, throw a million mutated frames at the decoders and at a learner, then kill processes of a job at random moments"
	@echo "make develop      set up, with what tests and checks need"
	@echo "make check        lint, types, import rules, formatting"
	@echo "make format       apply the formatter"
	@echo "make monitoring   write docs/metrics.md and ops/deploy/ anew from the catalogue of metrics"
	@echo "make clean        remove the virtual environment, runs and caches of this checkout"

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml $(LOCKS)
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "rba: Python 3.11 is needed; name one with: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	grep -h '^torch==' requirements/cpu.lock > $(VENV)/torch.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r $(VENV)/torch.txt \
		|| $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --index-url $(TORCH_INDEX) -r $(VENV)/torch.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(addprefix -r ,$(LOCKS))
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

develop: $(VENV)/developed

$(VENV)/developed: $(VENV)/installed requirements/dev.lock requirements/speech.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/dev.lock -r requirements/speech.lock
	touch $@

quickstart: install
	$(BIN)/rba launch configs/quickstart.yaml

test: develop prometheus
	$(BIN)/python -m pytest --numprocesses 2 --reruns 1 --rerun-show-tracebacks -raR

soak: develop
	$(BIN)/python -m tests.protocol.fuzz --frames 1000000
	$(BIN)/python -m pytest -m soak tests/faults

# Debian's package: as installed, else unpacked into a cache. Without either the tests that need it say so.
prometheus: develop
	$(BIN)/python -m tests.debian

monitoring: develop
	$(BIN)/rba monitoring write ops/deploy --docs docs

faults: develop prometheus
	$(BIN)/python -m tests.faults

check: develop
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: develop
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
