# Each target sets up what it needs, once. It needs only Python 3.10 to 3.13, make, and access to a package registry.
PYTHON ?= python3
AS_OF := 2026-05-24# the day after sglang 0.5.12.post1: its unpinned dependencies have moved on since

LATEST_AS_OF := 2026-11-25# when 0.5.23 was the newest release

BIN := .venv/bin
WHOLE := .venv/.whole# made last: without this file, the environment counts as incomplete
WHOLE_GPU := .venv-gpu/.whole
WHOLE_LATEST := .venv-latest/.whole
RESOLVE := $(BIN)/uv pip compile --quiet --universal --generate-hashes \
	--custom-compile-command 'make lock'
COMPILE := $(RESOLVE) --python-version 3.10

# These variables may be set for other programs. They must not change what the kit's own Python imports and asserts, and
# must not make it compile torch and sglang again in every process.
unexport PYTHONPATH PYTHONHOME PYTHONOPTIMIZE PYTHONSTARTUP PYTHONDONTWRITEBYTECODE PYTEST_ADDOPTS PYTEST_PLUGINS
export PYTHONUTF8 := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo drill gpu latest test check tidy lab exercise notebooks book doctor lock readme clean

help: ## print this
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(WHOLE) ## make .venv with everything that is locked

demo: $(WHOLE) ## see sglang 0.5.12.post1 die of one image with n = 2, then see it answer with the fix
	$(BIN)/python -m repro.lab.engine.host repro/crash.py fixed/crash.py
	@echo "The same on a server that others use, too: $(BIN)/python repro/server.py, then $(BIN)/python fixed/server.py"

drill: $(WHOLE) ## what has happened here, and what do you do first? One of ten cases, dealt blind
	@$(BIN)/python -m repro.lab.drill || [ $$? -eq 1 ]  # a wrong answer is no failure

gpu: $(WHOLE_GPU) ## the same two runs with all of sglang's dependencies (9.2 GB), on the GPU if one answers
	.venv-gpu/bin/python repro/crash.py
	.venv-gpu/bin/python fixed/crash.py

latest: $(WHOLE_LATEST) ## the real engine of sglang 0.5.23 on a CPU, without the plugin and with it (Python 3.11 to 3.13)
	.venv-latest/bin/python -m scripts.latest

test: $(WHOLE) tidy ## prove all of it, on the real engine, in the lab and in the notebooks
	$(BIN)/python -m pytest -n 3

check: $(WHOLE) tidy ## prove what needs no engine, no browser and no long run: for the edit loop
	$(BIN)/python -m pytest -n 3 -m "not engine and not browser and not long"

tidy: $(WHOLE)
	$(BIN)/ruff check
	$(BIN)/codespell *.md docs Makefile Dockerfile .github notebooks repro fixed tests scripts --ignore-words-list whats --skip "*.svg,*/.ipynb_checkpoints/*"

# JupyterLab shows the pictures that a notebook keeps only if it trusts the notebook.
lab: $(WHOLE) ## open JupyterLab at the notebooks
	@$(BIN)/jupyter trust $(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb) >/dev/null
	$(BIN)/jupyter lab --notebook-dir notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

exercise: $(WHOLE) ## grade exercises/fix.py at each save, with the next hint only (EXERCISE=hook, EXERCISE=protocol: the others)
	@$(BIN)/python -m fixed.exercises $(EXERCISE)

notebooks: $(WHOLE) ## execute every notebook from clean and keep its outputs
	$(BIN)/python -m scripts.notebooks

book: $(WHOLE) ## export the notebooks to build/book/index.html, which opens without a network
	$(BIN)/python -m scripts.notebooks --book build/book

doctor: ## say what is wrong with this machine, and the exact remedy
	@for python in $(BIN)/python .venv-gpu/bin/python $(PYTHON); do \
		command -v $$python >/dev/null && exec $$python -m repro.lab.doctor; done

readme: $(WHOLE) ## write the commands' true output into README.md, and draw its pictures
	$(BIN)/python -m scripts.pictures
	$(BIN)/python -m scripts.readme

lock: ## resolve requirements/*.in again
	@$(PYTHON) scripts/set_up.py --only-uv
	cd requirements && ../$(COMPILE) installer.in -o installer.lock
	cd requirements && ../$(COMPILE) --exclude-newer $(AS_OF) --excludes cpu.without cpu.in -o cpu.lock
	cd requirements && ../$(COMPILE) -c cpu.lock tools.in -o tools.lock
	cd requirements && ../$(COMPILE) --exclude-newer $(AS_OF) --excludes gpu.without gpu.in -o gpu.lock
	cd requirements && ../$(RESOLVE) --python-version 3.11 --exclude-newer $(LATEST_AS_OF) \
		--excludes latest.without latest.in -o latest.lock

clean: ## remove .venv, .venv-gpu, .venv-latest and what the tools leave
	rm -rf .venv .venv-gpu .venv-latest .pytest_cache .ruff_cache .hypothesis *.egg-info build fixed/hotfix/build fixed/hotfix/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

$(WHOLE): requirements/installer.lock requirements/cpu.lock requirements/tools.lock pyproject.toml
	@$(PYTHON) scripts/set_up.py

$(WHOLE_GPU): requirements/installer.lock requirements/gpu.lock pyproject.toml
	@$(PYTHON) scripts/set_up.py --gpu

$(WHOLE_LATEST): requirements/installer.lock requirements/latest.lock pyproject.toml
	@$(PYTHON) scripts/set_up.py --latest
