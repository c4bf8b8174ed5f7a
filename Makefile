# Every command of the project. Each makes what it needs: no step before it.
#   make lab   open the course        make test   every fault that matters        make help   the rest
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ROOT   := $(if $(filter 0,$(shell id -u)),--allow-root)
LOCK    = $(BIN)/uv pip compile -q --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock" pyproject.toml
HOOKS   = --jaxtyping-packages=efisher_teach,beartype.beartype
PEERS   = torch==2.13.0 nngeometry==0.4 curvlinops-for-pytorch==3.0.1
ALONE   = OPENBLAS_NUM_THREADS=1 # idle threads of LAPACK would spin beside JAX's
# Most of the course's time is compilation: it is made cheap, and kept for the next run (flags of JAX before 0.11).
KEPT    = JAX_COMPILATION_CACHE_DIR=$(CURDIR)/$(VENV)/.jax JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
BRISK   = XLA_FLAGS="--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 --xla_backend_optimization_level=0" $(KEPT)
MARIMO  = marimo==0.25.2
PRICED  = torch==2.13.0 nngeometry==0.4 backpack-for-pytorch==1.7.1 asdfghjkl==0.1a5 torchjd==0.18.0 netket==3.23.0 jax==0.10.2 numpy
ENDS    = 'jax==0.8.0:lowest' 'jax<0.13:highest' # the highest that this Python has: 0.10 for 3.11, 0.12 for others
SYSTEMS = x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu aarch64-apple-darwin x86_64-pc-windows-msvc
MATHS   = tests/test_problems.py tests/test_gradients.py tests/test_solve.py tests/test_precondition.py tests/test_two_budgets.py tests/test_step.py tests/test_matrices.py tests/test_coordinates.py tests/test_proof.py tests/test_gram.py tests/test_update.py tests/test_direction.py tests/test_entrance.py tests/test_devices.py tests/test_cuda.py

PIP     = $(BIN)/python -m pip
# uv does not read pip's settings: this shows it the same indexes, wheels and certificates.
INDEXES = set -a && UV_INDEX_STRATEGY=unsafe-best-match && eval "$$($(PIP) config list | sed -nE \
  's/^[^=]*\.index-url=/UV_DEFAULT_INDEX=/p; s/^[^=]*\.extra-index-url=/UV_INDEX=/p; s/^[^=]*\.cert=/SSL_CERT_FILE=/p; /\.find-links=/{s/^[^=]*=/UV_FIND_LINKS=/; y/ /,/; p}')"

.PHONY: help lab test test-units test-notebooks test-browser test-all test-heavy test-ends test-platforms test-peers test-marimo test-newest test-wheel mutants lint tables notebooks site figures bench bench-start bench-peers bench-gpu bench-site bench-class binder lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

lab: $(VENV)/.lab ## open the course in JupyterLab
	$(ALONE) $(BRISK) $(BIN)/jupyter lab $(ROOT) --ServerApp.ip=localhost notebooks/00_start_here.ipynb

test: lint test-units test-notebooks test-browser ## every fault that matters, in ten minutes

test-units: $(VENV)/.dev ## mathematics, scenes, lessons, widgets
	@$(call timed,units,$(ALONE) $(BRISK) $(BIN)/python -m pytest -m "not browser and not heavy" -n 2 --dist loadfile $(HOOKS))

test-notebooks: $(VENV)/.dev ## every notebook, output by output
	@$(call timed,notebooks,$(ALONE) $(BRISK) $(BIN)/python -m pytest --nbval --nbval-cell-timeout=300 -p no:cacheprovider -n 2 --dist loadfile notebooks)

test-browser: $(VENV)/.dev ## pages and a real JupyterLab in a real Chromium
	@$(call timed,browser,$(BRISK) $(BIN)/python -m pytest -m "browser and not heavy" -rs -n 2 --dist loadfile)

test-all: test test-heavy test-ends test-platforms test-wheel test-peers test-marimo ## the heavy rest, too: once a week, and before a release

test-heavy: $(VENV)/.dev ## devices, CUDA, models of other frameworks, every notebook in JupyterLab
	@$(call timed,heavy,$(ALONE) $(BRISK) $(BIN)/python -m pytest -m heavy -rs -n 2 --dist loadfile $(HOOKS))

mutants: $(VENV)/.dev ## proof that the tests bite: each of these errors must be found
	@$(call timed,mutants,$(ALONE) $(BRISK) $(BIN)/python tests/mutate.py)

test-ends: $(VENV)/.dev ## the mathematics at both ends of the JAX range
	@set -e; $(INDEXES); for end in $(ENDS); do pin=$${end%%:*}; env=$(VENV)-$${end##*:}; \
	  test -x $$env/bin/python || $(BIN)/uv venv -q --python $(BIN)/python $$env; \
	  $(BIN)/uv pip install -q --python $$env/bin/python "$$pin" jaxtyping beartype pytest hypothesis numpy scikit-learn optax tqdm; \
	  echo "== $$pin"; $$env/bin/python -m pytest --rootdir=. -p no:cacheprovider $(MATHS); done

test-platforms: $(VENV)/.dev ## that the pins have wheels, on every system and Python the course is for
	@set -e; $(INDEXES); for system in $(SYSTEMS); do for python in 3.11 3.12 3.13 3.14; do echo "== $$system, Python $$python"; \
	  $(BIN)/uv pip compile -q --no-header --no-annotate --only-binary :all: --python-platform $$system --python-version $$python \
	    requirements.txt -o /dev/null >/dev/null; done; done

test-peers: $(VENV)/.dev ## the same matrices by PyTorch, NNGeometry and curvlinops
	@set -e; $(INDEXES); env=$(VENV)-peers; test -x $$env/bin/python || $(BIN)/uv venv -q --python $(BIN)/python $$env; \
	  $(BIN)/uv pip install -q --python $$env/bin/python \
	    -c requirements-dev.txt $(PEERS) jax jaxtyping beartype pytest hypothesis numpy scikit-learn nbformat matplotlib
	@$(call timed,peers,EFISHER_TEACH_REQUIRE_PEERS=1 $(VENV)-peers/bin/python -m pytest --rootdir=. -p no:cacheprovider $(HOOKS) -k "peers or torch" tests/test_peers.py tests/test_own_models.py)

test-marimo: $(VENV)/.dev ## an explorer and its controls in marimo
	@set -e; $(INDEXES); env=$(VENV)-marimo; test -x $$env/bin/marimo || { $(BIN)/uv venv -q --python $(BIN)/python $$env; \
	  $(BIN)/uv pip install -q --python $$env/bin/python -c requirements-dev.txt $(MARIMO) -e .; }
	@$(call timed,marimo,EFISHER_TEACH_MARIMO=$(CURDIR)/$(VENV)-marimo/bin/marimo $(BIN)/python -m pytest -m heavy tests/test_marimo.py)

test-newest: $(VENV)/.dev ## the newest versions that pyproject.toml allows, in place of the pins
	@$(INDEXES); env=$(VENV)-newest; rm -rf $$env && $(BIN)/uv venv -q --python $(BIN)/python $$env && \
	  $(BIN)/uv pip install -q --python $$env/bin/python -e '.[lab,dev]'
	@$(call timed,newest,$(VENV)-newest/bin/python -m pytest --rootdir=. -p no:cacheprovider tests/test_step.py tests/test_explorer.py tests/test_cards.py tests/test_exercises.py && \
	  $(VENV)-newest/bin/python -m pytest --nbval-lax --nbval-cell-timeout=300 -p no:cacheprovider notebooks)

test-wheel: $(VENV)/.dev ## the wheel, in an environment of its own: an explorer, a lesson; how to cite it
	@$(BIN)/uv tool run -q --from cffconvert==2.0.0 cffconvert --validate -i CITATION.cff
	@rm -rf dist && $(BIN)/uv build -q && $(BIN)/python -m zipfile -l dist/*.whl | grep static/lesson.js >/dev/null
	@set -e; $(INDEXES); env=$(VENV)-wheel; test -x $$env/bin/python || $(BIN)/uv venv -q --python $(BIN)/python $$env; \
	  $(BIN)/uv pip install -q --python $$env/bin/python -c requirements-dev.txt dist/*.whl pytest hypothesis ipykernel
	@$(call timed,wheel,(cd tests && ../$(VENV)-wheel/bin/python -m pytest --rootdir=. -p no:cacheprovider -m "not browser" test_explorer.py test_cards.py))

lint: $(VENV)/.dev ## style, spelling, layers, types
	@$(call timed,lint,$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/codespell && $(BIN)/lint-imports --no-cache && PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright)

tables: $(VENV)/.dev ## the tables of docs/ that come from code and measurements
	$(BIN)/python docs/tables.py

notebooks: $(VENV)/.dev ## run every notebook and store what it shows
	$(ALONE) $(BRISK) $(BIN)/python notebooks/store.py

site: $(VENV)/.dev ## pages without a server, in _site/
	$(ALONE) $(BRISK) $(BIN)/python site/build.py

figures: $(VENV)/.dev ## a contact sheet of every scene
	$(BIN)/python benchmarks/contact_sheet.py

bench: $(VENV)/.dev ## ratios, all measured in one run
	$(BIN)/python benchmarks/sliders.py
	$(BIN)/python benchmarks/price.py

bench-start: $(VENV)/.dev ## how long a learner waits for a figure, and for a notebook
	$(ALONE) $(BRISK) $(BIN)/python benchmarks/start.py

bench-peers: $(VENV)/.dev ## the price of a step, beside PyTorch's packages
	@set -e; $(INDEXES); env=$(VENV)-price-peers; test -x $$env/bin/python || $(BIN)/uv venv -q --python $(BIN)/python $$env; \
	  $(BIN)/uv pip install -q --python $$env/bin/python $(PRICED); \
	  $(BIN)/python benchmarks/price.py --peers $$env/bin/python

bench-gpu: $(VENV)/.dev ## the price of a step on a GPU
	$(BIN)/python benchmarks/price.py --gpu

bench-site: site ## how soon the pages without a server answer
	$(BIN)/python benchmarks/pages.py

bench-class: $(VENV)/.dev ## what learners cost a server, one and ten at once
	bash binder/start $(BIN)/python benchmarks/classroom.py

binder: $(VENV)/.dev ## what Binder builds, and how long it takes
	$(BIN)/python benchmarks/binder.py

lock: $(VENV)/.dev ## pin every requirement anew
	$(LOCK) --extra lab --upgrade -o requirements.txt
	$(LOCK) --extra lab --extra dev --upgrade -c requirements.txt -o requirements-dev.txt

clean: ## remove the environments
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-highest $(VENV)-peers $(VENV)-marimo $(VENV)-newest $(VENV)-wheel dist

# $(call install,requirements): by uv, in a tenth of pip's time; by pip where there is no uv. To bytecode at once, as pip
# does: uv would leave that to the first kernel (3 s), and to every kernel where Python is told not to write bytecode.
install = { $(PIP) install --quiet --disable-pip-version-check $$(grep '^uv==' requirements-dev.txt) && $(INDEXES) && \
  $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(1); } || $(PIP) install --quiet --disable-pip-version-check $(1)

# The learner's environment; the tests' environment is the same one with more in it. One that was left half made (.half:
# an interrupted install) or whose Python is gone is made anew.
$(VENV)/.lab: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "This course needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make lab PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import platform, sys; sys.exit(platform.system() + platform.machine() == "Darwinx86_64" or sys.maxsize < 2**32)' || \
	  { echo "There is no JAX for this Python: it is for an Intel Mac, or has 32 bits. Read the course in your browser, or run it on Binder (README.md)."; exit 1; }
	@{ test ! -e $(VENV)/.half && $(BIN)/python -m pip -V; } >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
	  { echo "$(PYTHON) cannot make a virtual environment. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@test -e $@ || touch $(VENV)/.half
	@$(call install,-r requirements.txt)
	@$(call install,--no-deps -e .)
	@rm -f $(VENV)/.half && touch $@

$(VENV)/.dev: $(VENV)/.lab requirements-dev.txt
	@$(call install,-r requirements-dev.txt)
	@touch $@

# $(call timed,name,command): the command, then how long it took, by the clock and in CPU time (user, system).
timed = start=$$(date +%s); $(2); status=$$?; times > $(VENV)/.times; \
  echo "-- $(1): $$(( $$(date +%s) - start )) s, CPU $$(tail -n 1 $(VENV)/.times)"; exit $$status
