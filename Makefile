# The doors to everything: `make help` lists them. Needs Python 3.11 or newer, make and git; the rest is set up in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SET_UP := $(VENV)/.set-up
PEERS := $(VENV)/.peers

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1 # it would ask the network for a newer release

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
ifndef CHECKS
.NOTPARALLEL:
endif
.PHONY: help set-up test check check-by-pyright check-by-mypy check-the-rest tests torture coverage demo bench gauges reference format clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1:\2/p' $(MAKEFILE_LIST) | while IFS=: read -r target text; do printf '%-18s %s\n' "$$target" "$$text"; done

test: check tests ## set up, check, and run all tests, with docs and examples

# The longest begins first, and each is shown as a whole when it is done.
AT_ONCE := --jobs=2 $(if $(filter output-sync,$(.FEATURES)),--output-sync)

check: $(SET_UP) ## static checks: lint, format, types, import contracts, dead code, dependencies, spelling
	@$(MAKE) --no-print-directory $(AT_ONCE) CHECKS=at-once check-by-pyright check-by-mypy check-the-rest

check-by-pyright:
	$(BIN)/pyright

check-by-mypy:
	$(BIN)/mypy

check-the-rest:
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/vulture > $(VENV)/.dead || test $$? -eq 3 # 3: found something
	! grep -E 'unused (class|function|method|property)|unreachable' $(VENV)/.dead # fields and arguments are for others to read
	$(BIN)/deptry src
	$(BIN)/codespell
	$(BIN)/python -m tools.reference --check # docs/reference/api.md says what the docstrings say

# Tests start hundreds of processes. Where these may leave no bytecode (PYTHONDONTWRITEBYTECODE), each would compile all code anew.
COMPILE := $(BIN)/python -m compileall -q src tests examples tools

tests: $(SET_UP) ## the tests alone
	$(COMPILE)
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --max-worker-restart 0 # many wait for other processes; a document's blocks and a file's tests stay in one process

TORTURE_SECONDS := 10000 # for one test
torture: $(SET_UP) ## the tests that kill, stop and race processes, and those of faults, as often as is promised, with their seeds
	$(COMPILE)
	HAPPENED_KILLS=200 $(BIN)/python -m pytest -o faulthandler_timeout=$(TORTURE_SECONDS) tests/notification/test_kills.py tests/transfer/test_chaos.py
	HAPPENED_KILLS=500 HAPPENED_IMAGES=20000 HAPPENED_CALLS=1 HAPPENED_FLIPS=6000 HAPPENED_STEPS=50000 HAPPENED_SEEDS=1000 HAPPENED_FUZZ=2000 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -o faulthandler_timeout=$(TORTURE_SECONDS) -rP tests/faults # -rP: seeds and counts are shown; HAPPENED_SEED=... runs one again

coverage: $(SET_UP) ## the tests, with the branches they do not take
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Half a million lines, where somebody has put them beside the clone; else a sample. The history needs a clone that has one: without it (exit code 2) that is said.
RETAIL := $(wildcard ../shared/data/online_retail.csv.gz)

demo: $(SET_UP) ## a whole system on what is there, a year of a shop or a sample, then on the git history of this clone
	$(BIN)/happened demo $(if $(RETAIL),--data $(RETAIL))
	@$(BIN)/python -m examples.history --repo . --sample 100 || { test $$? -eq 2 && echo "make: so the history of this clone is left out" >&2; }

bench: $(PEERS) ## benchmarks, side by side with the peers
	$(BIN)/python -m benchmarks

gauges: $(SET_UP) ## size and shape of the code, as a trend
	$(BIN)/python -m tools.gauges

reference: $(SET_UP) ## write docs/reference/api.md from the code
	$(BIN)/python -m tools.reference

format: $(SET_UP) ## format the code, and mend what can be mended by itself
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

set-up: $(SET_UP) ## make .venv, or bring it up to date

clean: ## remove .venv and everything that tools have left
	rm -rf $(VENV) __pycache__ build dist .bench htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests examples tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp is written last: a set-up that broke off is begun again.
$(SET_UP): pyproject.toml
	@found=; \
	for python in "$(PYTHON)" python3.13 python3.12 python3.11 python3 python; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "make: no Python 3.11 or newer found (tried $(PYTHON), python3.13, python3.12, python3.11, python3, python)." >&2; \
	    echo "make: install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "make: $$found has no venv or ensurepip (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; \
	fi; \
	echo "make: setting up $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(if $(wildcard $@),,--clear) $(VENV)
	$(BIN)/python -m pip install -qq --only-binary :all: --editable '.[dev]'
	@touch $@

$(PEERS): $(SET_UP) benchmarks/requirements.txt
	$(BIN)/python -m pip install -qq --only-binary :all: --requirement benchmarks/requirements.txt
	@touch $@
