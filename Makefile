# make reproduce [PROFILE=digits]   run every experiment notebook and write reports/PROFILE/
# make test                         check notebooks against the package, run their tests and pytest
# make lab                          open JupyterLab on the notebooks
# make bench                        time matching (beside rebasin), training, populations and stars; writes reports/bench/
# make bench-studies                barriers by method and estimator, torchvision's architectures, the paper's costs: an hour; writes there too
# make site                        build a browsable site from notebooks, pages and reports; writes site/
# make export                       after editing a notebook: write starlight_nb/ and README.md
# make outputs                      run the notebooks of the library and the how-tos, and keep what they show
# make notebooks                    copy what the reports on digits show into the experiment notebooks
PYTHON ?= python3
PROFILE ?= digits
OPTIONS ?=
VENV := .venv
BIN := $(VENV)/bin
# the same numbers whatever the machine's cores: work is spread over processes, not threads
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: reproduce test lab bench bench-studies site export readme outputs notebooks
reproduce: $(VENV)/.installed
	@$(BIN)/starlight reproduce --profile $(PROFILE) $(OPTIONS)

test: $(VENV)/.installed-dev
	@echo "== 1/3 are nbs/ and starlight_nb/ in step?"
	@$(BIN)/python -m pytest tests/test_hygiene.py
	@echo "== 2/3 the library notebooks' own tests"
	@STARLIGHT_OUT='$(CURDIR)/.starlight/test/report' STARLIGHT_STORE='$(CURDIR)/.starlight/test/store' STARLIGHT_JOBS=1 $(BIN)/nbdev_test --skip_folder_re '^([_.]|experiments|howto)' --n_workers 2 --do_print
	@echo "== 3/3 pytest, which runs the experiments too"
	@$(BIN)/python -m pytest tests --ignore tests/test_hygiene.py --durations 8 --numprocesses 2 --dist worksteal --max-worker-restart 0

lab: $(VENV)/.installed-lab
	@$(BIN)/jupyter lab --notebook-dir nbs $(if $(filter 0,$(shell id -u)),--allow-root) $(OPTIONS)

bench: $(VENV)/.installed-bench
	@$(BIN)/python -m pytest tests/bench/bench_core.py --benchmark-columns min,median,rounds --benchmark-sort name
	@$(BIN)/python tests/bench/limits.py $(OPTIONS)
	@$(BIN)/python tests/bench/matching.py $(OPTIONS)
	@$(BIN)/python tests/bench/populations.py $(OPTIONS)
	@$(BIN)/python tests/bench/stars.py $(OPTIONS)

bench-studies: $(VENV)/.installed-bench
	@$(BIN)/python tests/bench/matching_barriers.py $(OPTIONS)
	@$(BIN)/python tests/bench/star_barriers.py $(OPTIONS)
	@$(BIN)/python tests/bench/estimators.py $(OPTIONS)
	@$(BIN)/python tests/bench/architectures.py
	@$(BIN)/python tests/bench/inference.py
	@$(BIN)/python tests/bench/costs.py

site: $(VENV)/.installed-site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo 'site/index.html: open it in a browser; no server or network is needed'

export: $(VENV)/.installed-dev
	@find starlight_nb -name '*.py' ! -path 'starlight_nb/__init__.py' -delete
	@$(BIN)/nbdev_clean
	@$(BIN)/nbdev_export
	@$(MAKE) --no-print-directory readme

outputs: $(VENV)/.installed-dev
	@STARLIGHT_PROGRESS='$(CURDIR)/$(VENV)/.progress' STARLIGHT_JOBS=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace nbs/*.ipynb nbs/howto/*.ipynb
	@$(BIN)/nbdev_clean
	@$(MAKE) --no-print-directory readme

notebooks: $(VENV)/.installed-dev
	@$(BIN)/python -c 'from pathlib import Path; from starlight_nb.paper.execution import copy_outputs; [copy_outputs(Path("reports", name), Path("nbs/experiments")) for name in ("digits", "digits-beyond")]'
	@$(BIN)/nbdev_clean

readme: $(VENV)/.installed-dev
	@$(BIN)/jupyter nbconvert --log-level ERROR --to markdown --stdout nbs/index.ipynb | sed 's#\.\./##g' > README.md

# each of these files says that pip has installed the package, with that extra, since pyproject.toml last changed
$(VENV)/.installed: pyproject.toml
	@$(call install,)
$(VENV)/.installed-%: pyproject.toml
	@$(call install,[$*])

define install
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; PYTHON=... names one")' && \
{ test -x $(BIN)/python || { echo "== creating .venv" && $(PYTHON) -m venv $(VENV); }; } && \
echo "== installing starlight_nb$(1) and what it needs (PyTorch is large: some minutes the first time)" && \
$(BIN)/python -m pip install --progress-bar off -e ".$(1)" && touch $@ $(VENV)/.installed
endef
