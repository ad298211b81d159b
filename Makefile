# attnbench. `make` lists what there is; each target sets up what it needs.
PYTHON ?= python3
VENV   ?= .venv
SWEEP  ?= quick
RUN    ?= $(SWEEP)
ARGS   ?=
ALLOCATOR ?= default
ENGINES ?= all
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup sweep report published peers selfbench clusters test lint format clean

help:  ## list the targets
	@echo "make TARGET [SWEEP=quick] [RUN=folder under results/] [ARGS='overrides of the configuration']"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## a virtual environment in .venv with the tested versions

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev]'
	@touch $@

sweep: $(READY)  ## run the sweep preset SWEEP, then write its report
	@$(BIN)/python bench/run.py sweep=$(SWEEP) run=$(RUN) $(ARGS); code=$$?; \
	if [ $$code -le 1 ]; then $(BIN)/python -m reports results/$(RUN) || exit $$?; fi; exit $$code

report: $(READY)  ## write the report of results/RUN
	@$(BIN)/python -m reports results/$(RUN) $(ARGS)

published: $(READY)  ## write the committed reports again from their committed rows [ARGS=--check]
	@$(BIN)/python -m reports.publish $(ARGS)

# keep: malloc neither maps nor returns pages, so that fresh ones cost nobody anything; peaks would mean nothing
KEEP := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000

peers: RUN = $(if $(filter keep,$(ALLOCATOR)),peers-keep,peers)
peers: $(READY)  ## ours and third-party code side by side, paired with SDPA [ALLOCATOR=keep]
	@env $(if $(filter keep,$(ALLOCATOR)),$(KEEP)) $(BIN)/python bench/run.py sweep=peers run=$(RUN) rerun=stale \
		$(if $(filter keep,$(ALLOCATOR)),measure.passes=[latency]) $(ARGS); code=$$?; \
	if [ $$code -le 1 ]; then $(BIN)/python -m reports.peers results/$(RUN) || exit $$?; fi; exit $$code

selfbench: $(READY)  ## the harness's own speed against its limits [ARGS='--pairs 200']
	@$(BIN)/python -m bench.selfbench $(ARGS)

clusters: $(READY)  ## the same sweep on real SLURM, Ray, Dask, submitit and shards, with kills [ENGINES=ray,dask]
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[slurm,ray,dask]'
	ATTNBENCH_CLUSTERS=$(ENGINES) $(BIN)/python -m pytest -rs tests/clusters $(ARGS)

test: $(READY)  ## run the tests, a process a core up to four
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(READY)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment, caches and built reports; results stay
	rm -rf $(VENV) build dist reports/build outputs .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
