# The commands of this project. `make run` and `make test` set up everything they need in .venv.
PYTHON ?= python3
DATA ?= data

BIN := .venv/bin

.PHONY: starter-model run test test-stalled browser-deps nginx-deps prometheus-deps lint types bench figures plots load scale chaos fuzz check-deploy clean help

help:
	@echo "make run [PORT=8000] [DATA=data] [MODEL=folder]   serve on this machine"
	@echo "make test                                         everything that must hold"
	@echo "make test-stalled                                 the same on a machine that is busy and stands still now and then"
	@echo "make fuzz [SEED=7] [SECONDS=180]                   over 10,000 requests that the OpenAPI allows or forbids; then, for as long,"
	@echo "                                                  whatever models are asked with at once, drawn alone, in company and again;"
	@echo "                                                  and 2,000 interleavings of the scripts on Redis"
	@echo "make chaos [SEED=1] [SECONDS=60] [MUTANTS=1]       kill everything at random, then count what was lost;"
	@echo "                                                  FOLDERS=1: workers have two models, one in memory at a time"
	@echo "make load [ARGS='--soak 300']                      traffic beside a bare FastAPI, some 5 minutes"
	@echo "make scale [ARGS=--quick]                         a thousand workers on one Redis, beside an older version, some 8 minutes"
	@echo "make figures                                      measures anew what docs/benchmarks.md draws, some 25 minutes"
	@echo "make plots                                        draws it from docs/figures/*.json"
	@echo "make lint | types | check-deploy | bench | clean"

run: .venv/serve.stamp
	@exec $(BIN)/darkroom up $(if $(PORT),--port $(PORT)) --data "$(DATA)" $(if $(MODEL),--model "$(MODEL)")

# A file's tests stay in one process, because they share what it starts. Two processes more than there are cores: with one
# more, a third of two cores was idle, waiting for what they had started.
TESTERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, 2 + (os.cpu_count() or 1)))')

test: .venv/dev.stamp
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

test-stalled: .venv/dev.stamp
	$(BIN)/python -m tests.stalled

# tests/browser needs a Chromium that runs; its driver comes with the dev extra. Debian's headless shell opens a page for a
# fifth of what the whole browser takes. Ubuntu has none, and its package chromium is a stub for a snap, which --version
# finds out. An index that cannot be refreshed may still name a version that can be fetched.
browser-deps:
	@runs() { for name in "$$@"; do [ -n "$$name" ] && "$$name" --version >/dev/null 2>&1 && return 0; done; return 1; }; \
	installed="chromium-headless-shell chromium"; \
	runs "$$DARKROOM_TEST_BROWSER" $$installed chromium-browser google-chrome google-chrome-stable && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq || echo "the package index is as old as it was" >&2; \
	  for package in $$installed; do \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      -o DPkg::Lock::Timeout=120 $$package >/dev/null && break; \
	  done; \
	fi; \
	runs $$installed || \
	{ echo "install Chromium for tests/browser, e.g. apt-get install chromium as root, or name one in DARKROOM_TEST_BROWSER"; exit 1; }

# tests/app/test_behind_nginx.py needs nginx. Only its program: RUNLEVEL=1 keeps the package from starting a server.
nginx-deps:
	@PATH="$$PATH:/usr/sbin"; command -v nginx >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq || echo "the package index is as old as it was" >&2; \
	  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    -o DPkg::Lock::Timeout=120 nginx-light >/dev/null; \
	fi; \
	command -v nginx >/dev/null || { echo "install nginx for its tests, e.g. apt-get install nginx-light as root"; exit 1; }

# tests/deploy plays the alerts with promtool, which comes with Prometheus. No server is started.
prometheus-deps:
	@command -v promtool >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq || echo "the package index is as old as it was" >&2; \
	  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    -o DPkg::Lock::Timeout=120 prometheus >/dev/null; \
	fi; \
	command -v promtool >/dev/null || { echo "install promtool for its tests, e.g. apt-get install prometheus as root"; exit 1; }

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/yamllint --strict .

types: .venv/dev.stamp
	$(BIN)/mypy

chaos: .venv/dev.stamp
	$(BIN)/python -m tests.faults.chaos --seed $(or $(SEED),1) --seconds $(or $(SECONDS),60) $(if $(MUTANTS),--mutants) $(if $(FOLDERS),--folders)

fuzz: .venv/dev.stamp
	DARKROOM_TEST_CONFORMANCE_SECONDS=$(or $(SECONDS),180) DARKROOM_TEST_CONFORMANCE_SEED=$(or $(SEED),7) \
	$(BIN)/python -m pytest -s tests/app/test_conformance.py
	DARKROOM_TEST_INTERLEAVINGS=2000 $(BIN)/python -m pytest -o timeout=3600 --hypothesis-profile fuzz \
	  --hypothesis-seed $(or $(SEED),7) \
	  tests/contract/test_state_machine.py tests/contract/test_input_machine.py tests/contract/test_a1111_syntax.py \
	  tests/engine/test_arrivals.py tests/engine/test_reproducible.py tests/engine/test_batcher.py \
	  tests/engine/test_snapshot_file.py tests/worker/test_images.py tests/worker/test_next_model.py \
	  tests/app/test_event_ids.py tests/app/test_storage.py
	$(BIN)/python -m tests.engine.combinations --seed $(or $(SEED),7) --seconds $(or $(SECONDS),180)

check-deploy: .venv/dev.stamp
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/caddy validate --adapter caddyfile --config deploy/caddy/Caddyfile 2>&1 | grep -q "Valid configuration"

bench: .venv/dev.stamp
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.trace
	$(BIN)/python -m benchmarks.gateway

# What a quiet machine says, with the commands that the page has. The figures of a GPU are taken on one: benchmarks/gpu.
figures: .venv/dev.stamp
	$(BIN)/python -m benchmarks.engine --pairs 25 --compiled --batches --json docs/figures/lone.json
	$(BIN)/python -m benchmarks.engine --schedulers --batches 1 2 4 8 16 --json docs/figures/engine.json
	$(BIN)/python -m benchmarks.trace --seconds 600 --clock cpu --threads 1 --json docs/figures/trace.json
	$(BIN)/python -m benchmarks.trace --same --seconds 150 --clock cpu --threads 1 --json docs/figures/trace-same.json
	$(BIN)/python -m benchmarks.gateway --json docs/figures/gateway.json
	$(BIN)/python -m benchmarks.memory --json docs/figures/memory.json
	$(BIN)/python -m benchmarks.load --json docs/figures/load.json
	$(BIN)/python -m benchmarks.deadlines --jobs 60 --side 64 --threads 1 --json docs/figures/deadlines.json
	$(BIN)/python -m benchmarks.plots

plots: .venv/dev.stamp
	$(BIN)/python -m benchmarks.plots

load: .venv/dev.stamp
	$(BIN)/python -m benchmarks.load $(ARGS)

scale: .venv/dev.stamp
	$(BIN)/python -m benchmarks.scale $(or $(ARGS),--json docs/figures/scale.json)

# Retrains the bundled model from nothing into build/starter. Needs npm for the icons, and a GPU to be quick.
starter-model: .venv/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,recipe]'
	$(BIN)/python -m recipes.starter.make --minutes $(or $(MINUTES),25)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("darkroom needs Python 3.11 or newer; name one with PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

# constraints.txt holds the versions everything was tested with. torch is pinned to one release everywhere: pip then
# takes the build that fits the machine.
.venv/serve.stamp: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing torch and what else is needed, which takes some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,embedded]'
	@touch $@

.venv/dev.stamp: .venv/serve.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,embedded,otel,dev]'
	@touch $@
