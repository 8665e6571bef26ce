.DEFAULT_GOAL := help
.PHONY: help demo up setup test test-fast soak attack check fmt bench image lock chart test-cluster
python := .venv/bin/python
# Hundreds of processes start in the tests; each would compile our code anew.
unexport PYTHONDONTWRITEBYTECODE

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1|/p' Makefile | awk -F '|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

demo: setup  ## the whole system on this machine, one replayed workflow, and a table of what happened
	@$(python) -m dev demo

up: setup  ## the whole system, left running, with URLs and a token to try
	@$(python) -m dev up

setup:  ## the private environment .venv/, from hash-pinned requirements
	@sh dev/setup.sh

test: setup  ## all tests, three at a time: much of their time is waiting
	@$(python) -m pytest -q -n 3 --dist loadscope --no-loadscope-reorder

test-fast: setup  ## unit tests and house rules, without Postgres and the system's processes: about a minute
	@$(python) -m pytest -q -n 2 tests/unit tests/house

soak: setup  ## killed sidecars, simulated faults (CRASH_KILLS, CRASH_SEED, SIMULATION_SEEDS, SIMULATION_SEED)
	@CRASH_KILLS=$${CRASH_KILLS:-5000} $(python) -m pytest -q tests/journeys/test_crashes.py
	@SIMULATION_SEEDS=$${SIMULATION_SEEDS:-20000} SIMULATION_SEED=$${SIMULATION_SEED:-$$(date +%s)} \
		$(python) -m pytest -q tests/simulation/test_simulation.py

attack: setup  ## hostile scripts against the running system under the chart's memory limits (ATTACK_ROUNDS)
	@ATTACK_ROUNDS=$${ATTACK_ROUNDS:-10} $(python) -m pytest -q --timeout=1200 tests/attacks

check: setup  ## lint, format, types, import rules, house rules
	@$(python) -m ruff check --quiet && $(python) -m ruff format --check --quiet && $(python) -m mypy
	@PYTHONPATH=clients/python $(python) .venv/bin/lint-imports --no-logo && $(python) -m pytest -q tests/house

fmt: setup  ## formats the code and applies the linter's safe fixes
	@$(python) -m ruff format && $(python) -m ruff check --fix

bench: setup  ## the measurements of docs/benchmarks.md (some minutes; nginx and wrk are installed by apt)
	@$(python) -m dev.bench

image: setup  ## builds both container images and starts each once
	@$(python) -m dev.image

chart: setup  ## the Helm chart: writes its README and docs/metrics.md, then tests it with real helm
	@$(python) -m dev.kube.chart_files && $(python) -m tests.metrics_page && $(python) -m pytest -q tests/chart

test-cluster: setup  ## the chart on a real API server, built from its Go modules at the first run
	@$(python) -m dev.kube && $(python) -m pytest -q tests/cluster

lock: setup  ## pins the newest versions that pyproject.toml allows
	@sh dev/lock.sh
