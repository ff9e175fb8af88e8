# make train: from nothing to a trained tiny model and a table; make train FAMILY=qwen2_5_vl: of another family than Qwen3-VL.
# make test: the tests. All make the environment first.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
TASKS := chain_sum knights functions digits counting
DATA := $(TASKS:%=data/%/eval/manifest.json)
RUN ?= configs/cpu.yaml
FAMILY ?=
MODEL := models/tiny$(FAMILY:%=-%)

# Parts that share two cores (engine, verifiers, ranks) are quicker with a thread each than waiting for one another's.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

# The tests of a file stay in one process, and two cores have three processes, since tests wait as often as they work.
JOBS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -rs

# The sets of the configs for Qwen3-VL 2B, 8B and 30B-A3B, most of them from the hub; see docs/data.md.
REAL := gsm8k competition_math dapo_math aqua mbpp code_contests geometry3k chartqa table_charts scenes

.PHONY: env data data-real train test test-slow faults smoke check clean
.DELETE_ON_ERROR:

env: $(READY)

# The sets are made side by side, one on each core.
data: $(READY)
	@$(MAKE) -s -j$(shell nproc) $(DATA)

data-real: $(REAL:%=data/%/eval/manifest.json) data/knights_knaves/eval/manifest.json data/zebra/eval/manifest.json

train: $(READY) data $(MODEL)/config.json
	$(BIN)/vlrl train $(RUN) $(FAMILY:%=model=$(MODEL) name=cpu-%)

test: $(READY)
	$(PYTEST)

test-slow: $(READY)
	$(PYTEST) -m slow

# Real runs that are killed, starved or damaged; docs/faults.md has the whole matrix.
faults: $(READY)
	$(BIN)/python -m tests.faults --quick

# A short run of the whole, with limits alone where this machine can't jail code (a container without namespaces, say).
smoke: $(READY) data $(MODEL)/config.json
	rm -rf runs/smoke
	$(BIN)/vlrl doctor | tee /dev/stderr | grep -q "jail for code: works" && isolation=jail || isolation=limits; \
	$(BIN)/vlrl train $(RUN) name=smoke model=$(MODEL) steps=20 coldstart.steps=60 evaluation.rows=40 scoring.isolation=$$isolation
	test -s runs/smoke/summary.json

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first and alone: as pip is set up here, or else from PyTorch's own index of CPU builds.
$(READY): requirements/cpu.txt pyproject.toml
	@echo "Making the environment in $(VENV): 200 packages, 3 GB, some minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-deps torch==2.13.0+cpu 2>/dev/null \
	  || $(BIN)/pip install -q --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu torchvision==0.28.0+cpu
	$(BIN)/pip install -q --no-deps -r requirements/cpu.txt
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@

data/%/eval/manifest.json: data_recipes/%.py vlrl/data/shards.py vlrl/data/recipe.py | $(READY)
	$(BIN)/vlrl data build data_recipes/$*.py --out data/$*

data/knights_knaves/eval/manifest.json: | $(READY)
	$(BIN)/vlrl data build data_recipes/reasoning_gym.py --from knights_knaves --task knights_knaves --out data/knights_knaves

data/zebra/eval/manifest.json: | $(READY)
	$(BIN)/vlrl data build data_recipes/reasoning_gym.py --from zebra_puzzles --task short_answer --out data/zebra

# The sets are named, so that a set of one's own in data/ changes neither the tokenizer nor the run.
$(MODEL)/config.json: vlrl/models/tiny.py $(FAMILY:%=vlrl/models/families/%.py) | data
	$(BIN)/vlrl tiny $(MODEL) $(FAMILY:%=--family %) $(patsubst %,--texts data/%/train,$(sort $(TASKS)))

clean:
	rm -rf $(VENV) data models runs
