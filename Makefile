# make train: from nothing to a trained tiny model and a table; make train FAMILY=qwen2_5_vl: of another family than Qwen3-VL.
# make test: the tests. All make the environment first.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DOCS := .venv-docs
READY := $(VENV)/ready
RUN ?= configs/cpu.yaml
FAMILY ?=
# How a family begins: another architecture learns the tasks of the cold start at other rates (docs/learning.md).
START_qwen2_5_vl := steps=110 coldstart.steps=120 mixture.knights.coldstart_weight=0.17 \
  mixture.functions.coldstart_weight=0.55 mixture.functions.weight=3 mixture.counting.weight=3 evaluation.rows=150
START_qwen3_5 := steps=90 coldstart.steps=120 mixture.chain_sum.coldstart_weight=1 mixture.knights.coldstart_weight=0.2 \
  mixture.functions.coldstart_weight=0.3 mixture.digits.coldstart_weight=0.5 mixture.counting.coldstart_weight=3.6 \
  mixture.functions.weight=4 mixture.digits.weight=2 evaluation.rows=150
TINY := models/tiny-$(FAMILY)
OF_FAMILY := $(if $(FAMILY),name=cpu-$(FAMILY) model=$(TINY) build.tiny_models.$(TINY)=$(FAMILY) $(START_$(FAMILY)))

# Parts that share two cores (engine, verifiers, ranks) are quicker with a thread each than waiting for one another's.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1
# A run and the tests start hundreds of processes, each of which would compile the same modules.
unexport PYTHONDONTWRITEBYTECODE

# The tests of a file stay in one process, and two cores have three processes, since tests wait as often as they work.
JOBS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -rs

.PHONY: env data train test test-slow faults smoke check docs clean

env: $(READY)

# What the run's first start would make: the data sets and the tiny model.
data: $(READY)
	$(BIN)/vlrl prepare $(RUN) $(OF_FAMILY)

train: $(READY)
	$(BIN)/vlrl train $(RUN) $(OF_FAMILY)

test: $(READY)
	$(PYTEST)

test-slow: $(READY)
	$(PYTEST) -m slow

# Real runs that are killed, starved or damaged; docs/faults.md has the whole matrix.
faults: $(READY)
	$(BIN)/python -m tests.faults --quick

# A short run of the whole, with limits alone where this machine can't jail code (a container without namespaces, say).
smoke: $(READY)
	rm -rf runs/smoke
	$(BIN)/vlrl doctor | tee /dev/stderr | grep -q "jail for code: works" && isolation=jail || isolation=limits; \
	$(BIN)/vlrl train $(RUN) $(OF_FAMILY) name=smoke steps=20 coldstart.steps=60 evaluation.rows=40 scoring.isolation=$$isolation
	test -s runs/smoke/summary.json

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation site, in site/, from an environment of its own that has mkdocs and none of what trains.
docs: $(DOCS)/ready
	$(DOCS)/bin/python -m mkdocs build --strict

$(DOCS)/ready: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install -q --no-deps -r requirements/docs.txt
	touch $@

# torch first and alone: as pip is set up here, or else from PyTorch's own index of CPU builds.
$(READY): requirements/cpu.txt pyproject.toml
	@echo "Making the environment in $(VENV): 200 packages, 3 GB, two to four minutes without a word, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-deps torch==2.13.0+cpu 2>/dev/null \
	  || $(BIN)/pip install -q --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu torchvision==0.28.0+cpu
	$(BIN)/pip install -q --no-deps -r requirements/cpu.txt
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf $(VENV) $(DOCS) data models runs site
