# Each target does its own set-up: on a fresh clone, `make demo` is enough.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2

PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1
# waiting threads sleep early, so that JOBS processes share the cores (tandem/machine.py)
export GOMP_SPINCOUNT ?= 10000
export KMP_BLOCKTIME ?= 0

# what `make reproduce` is made of
PARTS = rlp full selection hacking solving feedback

.PHONY: setup demo label test check docs pages site picture reproduce $(PARTS:%=reproduce-%) bench browser fuzz kills trackers slow clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: export OMP_NUM_THREADS = $(JOBS)
demo: $(READY)
	$(PY) -m tandem bench --budget 8min --out runs/demo

test: $(READY)
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow and not site"

# The page is tested in Debian's Chromium; elsewhere set CHROMIUM to one that is there.
browser:
	command -v chromium || (apt-get update && apt-get install --yes --no-install-recommends chromium)

# The labelling page on seeded data: installs what it needs and no more, then prints an address.
label:
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[label]'
	$(PY) -m tandem label demo

trackers: $(READY)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[tensorboard,trackio,wandb]'

# What is generated in README.md and docs/ (torch is not loaded).
docs: $(READY)
	$(PY) docs/generate.py

# Every published page again, from the outcomes and numbers that are committed: minutes.
pages: $(READY)
	$(PY) experiments/remake.py

# The docs as pages in build/site, with the API out of the docstrings; a broken link is an error,
# and what was built is looked through.
site: $(READY)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[site]'
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	$(PY) -m pytest -m site tests/docs/test_site.py

REPORT ?= runs/demo/report.html
picture: $(READY) browser
	$(PY) docs/picture.py $(REPORT)

# Hours. Every command goes on where it stopped; `make reproduce SEEDS=1` is a first look, and
# `make reproduce-rlp` is a part. `rlp`'s plan has 10 seeds, the others 5; SEEDS replaces all of
# them. The full preset and RLP's ablations find the stages of `rlp` in its folder.
runs  = runs/reproduce
seeds = $(if $(SEEDS),--seeds $(SEEDS))
define compared
	$(PY) -m tandem bench $(1) $(seeds) --out $(runs)/$(2)
	$(PY) experiments/pages.py $(runs)/$(2) --name $(3)
endef
reproduce: $(PARTS:%=reproduce-%)
	$(PY) docs/generate.py
reproduce-%: export OMP_NUM_THREADS = $(JOBS)
reproduce-rlp: $(READY)
	$(call compared,experiments/rlp.toml,rlp,rlp)
	$(PY) experiments/rlp_rewards.py $(runs)/rlp
	$(call compared,experiments/rlp_ablations.toml,rlp,rlp-ablations)
	$(call compared,experiments/rlp_shared.toml,rlp-shared,rlp-shared)
	$(PY) experiments/rlp_rewards.py $(runs)/rlp-shared --name rlp-shared-rewards
reproduce-full: $(READY)
	$(call compared,--preset full,rlp,full --html)
reproduce-selection: $(READY)
	$(call compared,experiments/rso.toml,rso,rso)
	$(PY) experiments/rso_labels.py $(runs)/rso
	$(call compared,experiments/rest.toml,rest,rest)
reproduce-hacking: $(READY)
	$(PY) experiments/overoptimisation.py $(seeds) --runs $(runs)/overoptimisation
reproduce-solving: $(READY)
	$(PY) experiments/self_improvement.py $(seeds) --out $(runs)/self-improvement \
	  --page docs/results/self-improvement.md
	$(PY) experiments/self_improvement.py --ways $(seeds) --out $(runs)/self-improvement-ways \
	  --page docs/results/self-improvement-ways.md
reproduce-feedback: $(READY)
	$(PY) experiments/rlaif.py $(seeds) --out $(runs)/rlaif --results docs/results/rlaif.json

# An hour of damaged and hostile input; the same command goes on where it stopped, and what failed
# is kept in build/fuzz/failures. `make fuzz FOR=60` is a minute. `make kills` is an hour of runs
# and benches that are killed.
FOR ?= 3600
fuzz: $(READY)
	PYTHONPATH=tests $(PY) -m fuzz --seconds $(FOR)
kills: $(READY)
	PYTHONPATH=tests $(PY) -m fuzz --seconds $(FOR) --only kills,benches --folder build/kills

slow: $(READY)
	$(PY) -m pytest -m slow

check: $(READY)
	$(VENV)/bin/ruff format --check src tests benchmarks examples experiments docs/*.py
	$(VENV)/bin/ruff check src tests benchmarks examples experiments docs/*.py
	$(VENV)/bin/pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports
	$(PY) docs/generate.py --check

bench: export OMP_NUM_THREADS = $(JOBS)
bench: $(READY)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[trl]'
	$(PY) benchmarks/vs_trl.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache
