# Each target does its own set-up: on a fresh clone, `make demo` is enough.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2

PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test check docs picture reproduce bench browser trackers slow clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: export OMP_NUM_THREADS = $(JOBS)
demo: $(READY)
	$(PY) -m tandem run dpo --task micro --out runs/demo

test: $(READY)
	$(PY) -m pytest -n $(JOBS) --dist loadfile -m "not slow"

# The page is tested in Debian's Chromium; elsewhere set CHROMIUM to one that is there.
browser:
	command -v chromium || (apt-get update && apt-get install --yes --no-install-recommends chromium)

trackers: $(READY)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[tensorboard,trackio,wandb]'

# What is generated in README.md and docs/ (torch is not loaded).
docs: $(READY)
	$(PY) docs/generate.py

REPORT ?= runs/demo/report.html
picture: $(READY) browser
	$(PY) docs/picture.py $(REPORT)

# Hours. Every command goes on where it stopped; `make reproduce SEEDS=1` is a first look.
# `rlp`'s plan has 10 seeds, the others 5; SEEDS replaces all of them.
seeds = $(if $(SEEDS),--seeds $(SEEDS))
reproduce: export OMP_NUM_THREADS = $(JOBS)
reproduce: $(READY)
	for plan in rlp rso rest; do \
	  $(PY) -m tandem bench experiments/$$plan.toml $(seeds) --out runs/reproduce/$$plan && \
	  $(PY) experiments/pages.py runs/reproduce/$$plan --name $$plan || exit 1; done
	$(PY) experiments/overoptimisation.py $(seeds) --runs runs/reproduce/overoptimisation
	$(PY) experiments/self_improvement.py $(seeds) --out runs/reproduce/self-improvement \
	  --page docs/results/self-improvement.md
	$(PY) experiments/rlaif.py $(seeds) --out runs/reproduce/rlaif --results docs/results/rlaif.json
	$(PY) docs/generate.py

slow: $(READY)
	$(PY) -m pytest -m slow

check: $(READY)
	$(VENV)/bin/ruff format --check src tests benchmarks experiments docs/*.py
	$(VENV)/bin/ruff check src tests benchmarks experiments docs/*.py
	$(VENV)/bin/pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports
	$(PY) docs/generate.py --check

bench: export OMP_NUM_THREADS = $(JOBS)
bench: $(READY)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[trl]'
	$(PY) benchmarks/vs_trl.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache
