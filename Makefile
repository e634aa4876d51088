# Each target does its own set-up: on a fresh clone, `make demo` is enough.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2

PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test check bench browser trackers slow clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: export OMP_NUM_THREADS = $(JOBS)
demo: $(READY)
	$(PY) -m tandem bench --preset laptop --out runs/demo

test: $(READY)
	$(PY) -m pytest -n $(JOBS) --dist loadfile -m "not slow"

# The page is tested in Debian's Chromium; elsewhere set CHROMIUM to one that is there.
browser:
	command -v chromium || (apt-get update && apt-get install --yes --no-install-recommends chromium)

trackers: $(READY)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[tensorboard,trackio,wandb]'

slow: $(READY)
	$(PY) -m pytest -m slow

check: $(READY)
	$(VENV)/bin/ruff format --check src tests benchmarks experiments
	$(VENV)/bin/ruff check src tests benchmarks experiments
	$(VENV)/bin/pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports

bench: export OMP_NUM_THREADS = $(JOBS)
bench: $(READY)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[trl]'
	$(PY) benchmarks/vs_trl.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache
