# Two commands are all the set-up: `make demo` and `make test`. Both make the environment in .venv, and fetch uv
# first where it is missing. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
export UV_PYTHON_DOWNLOADS ?= never
export HF_HUB_OFFLINE := 1
# Tests start hundreds of Pythons, each of which would compile our modules anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-faults test-adversary test-matrix profile-tests test-torch test-stacks gpu-check gpu-packages check hooks docs docs-serve check-stacks format lock crd reference cluster cluster-down e2e e2e-long bench bench-operator bench-agent bench-channel bench-copy bench-reading trace-save clean

help: ## Say what can be made
	@grep -hE '^[a-z0-9 -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: .venv/stamp ## Save, conflict, replace, load elsewhere, then train, kill and resume: no cluster (2 min after set-up)
	$(PYTHON) examples/demo.py

# `make test REPORTS=FOLDER` writes a JUnit file per tier there. Each tier's summary ends with its ten slowest and its sum.
TIER = $(PYTEST) --durations=10 --durations-min=0.5 $(if $(REPORTS),--junit-xml=$(REPORTS)/$(1).xml) -m
WITH_TORCH := ranks or pods
# Each process loads torch, and has ranks and servers of its own. One that has no test left takes some of another's.
PROCESSES := 2
AT_ONCE := --numprocesses $(PROCESSES) --dist worksteal

# In two processes: whether a pure test loads torch shows only where nothing else has. Both run, whatever the first says.
test: .venv/stamp ## All tests that need no server of their own and no cluster (11 min on 2 cores)
	@status=0; $(MAKE) -s test-fast || status=$$?; $(call TIER,test) "$(WITH_TORCH)" $(AT_ONCE) || status=$$?; exit $$status

test-fast: .venv/stamp ## The tests that load no torch
	$(call TIER,test-fast) pure $(AT_ONCE)

test-faults: .venv/stamp ## Stores that fail (versitygw, the clouds' stand-ins) and what stock DCP does there (5 min)
	$(call TIER,test-faults) faults $(AT_ONCE)

test-matrix: .venv/stamp ## More cases of what the other tiers prove: every sharding against every other, every step, many examples
	HYPOTHESIS_PROFILE=long $(call TIER,test-matrix) "matrix or pure"

test-adversary: .venv/stamp ## What attackers try and what goes wrong without them, without a cluster: docs/threats.md
	$(PYTEST) -m "adversary and not e2e"

profile-tests: .venv/stamp ## The 30 slowest tests and set-ups, and what each tier takes
	$(PYTEST) --durations=30 --durations-min=0.2 -q -m "pure or $(WITH_TORCH)"

# One environment per torch, outside the tree; all but torch and what it brings is as locked.
TORCHES := 2.13 2.14
TORCH_TESTS := tests/test_torch_internals.py tests/test_torch_messages.py tests/test_torch_versions.py \
	tests/test_engine_pure.py tests/test_engine_save_load.py \
	tests/test_engine_faults.py tests/test_engine_states.py tests/test_engine_background.py \
	tests/test_engine_tensors.py tests/test_engine_classes.py tests/test_engine_agreement.py \
	tests/test_engine_entries.py tests/test_engine_missing.py tests/test_engine_reading.py tests/test_devices.py \
	tests/test_stock_faults.py tests/test_stock_situations.py tests/test_state.py
PINNED = sed -nE 's/^([a-z].*==.*[^ ])  *\\$$/\1/p' requirements-dev.txt
TORCH_HOME := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dcp-operator/torch-

test-torch: ## The engine's tests on every earlier torch, TORCHES="2.13 2.14" (a download of several GB each)
	@uv=$$(./.ci/uv); for torch in $(TORCHES); do \
		home=$(TORCH_HOME)$$torch; echo "torch $$torch"; \
		[ -x $$home/bin/python ] || $$uv venv -q --python '>=3.11' $$home; \
		$(PINNED) | grep -vE '^(torch|triton|cuda-|nvidia-)' \
			> $$home/constraints.txt; \
		$$uv pip install -q --python $$home/bin/python -c $$home/constraints.txt "torch==$$torch.*" \
			-e '.[worker]' --group dev; \
		$$home/bin/python -m pytest -p no:cacheprovider $(TORCH_TESTS); \
	done

# One environment per stack, outside the tree, as locked in tests/stacks.
STACKS := transformers accelerate lightning torchtitan
STACKS_HOME := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dcp-operator/stacks

test-stacks: .venv/stamp ## The adapters in their training stacks, STACKS="transformers lightning" (5 min on 2 cores, after a download)
	@uv=$$(./.ci/uv); for stack in $(STACKS); do \
		home=$(STACKS_HOME)/$$stack; \
		[ -x $$home/bin/python ] || $$uv venv -q --python '>=3.11' $$home; \
		$$uv pip sync -q --compile-bytecode --python $$home/bin/python tests/stacks/requirements-$$stack.txt; \
		$$uv pip install -q --python $$home/bin/python --no-deps -e .; \
	done
	STACKS=$(STACKS_HOME) $(call TIER,test-stacks) stacks tests/stacks -k "$(subst $() , or ,$(STACKS))"

# On a machine with a GPU and a torch of its own: `make gpu-packages gpu-check GPU_PYTHON=python3`. GPU_PACKAGES can be
# made elsewhere, for GPU_PYTHON_VERSION, and taken along: the check needs no network.
GPU_PYTHON := $(PYTHON)
GPU_PYTHON_VERSION := $(shell $(GPU_PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null)
GPU_PACKAGES := build/gpu-packages
GPU_NEEDS := annotated-types awscrt obstore pydantic pydantic-core tenacity typing-extensions typing-inspection

gpu-check: ## What can only be seen on a GPU; any torch from 2.11, CUDA, no network (8 min at most)
	PYTHONPATH=worker:$(GPU_PACKAGES) $(GPU_PYTHON) tests/gpu/check.py

gpu-packages: ## The packages beside torch and numpy that gpu-check needs (under 40 MiB)
	@uv=$$(./.ci/uv); rm -rf $(GPU_PACKAGES); \
	for name in $(GPU_NEEDS); do grep -oE "^$$name==[^ ;]+" requirements-dev.txt; done | \
	$$uv pip install -q --no-deps --python-version $(GPU_PYTHON_VERSION) --target $(GPU_PACKAGES) -r -
	@find $(GPU_PACKAGES) -name __pycache__ -prune -exec rm -rf {} +; du -sm $(GPU_PACKAGES)

# What codespell reads.
SPELT := README.md CONTRIBUTING.md CHANGELOG.md Makefile Dockerfile mkdocs.yml pyproject.toml .ci docs operator worker examples manifests tests

check: .venv/stamp .venv/bin/codespell ## ruff, mypy --strict, import contracts, drift of generated files, spelling, lengths
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTHON) -m dcp_operator.generate --check
	.venv/bin/codespell $(SPELT)
	$(PYTHON) .ci/budget.py

hooks: .venv/stamp .venv/bin/pre-commit ## Have git check each commit, by .pre-commit-config.yaml
	.venv/bin/pre-commit install

docs: .venv/stamp .venv/bin/mkdocs ## The documentation as a site in build/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

docs-serve: .venv/stamp .venv/bin/mkdocs ## The documentation on http://127.0.0.1:8000, built anew at each change
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs serve

check-stacks: ## Whether we install beside torchtitan, accelerate, lightning, datasets and transformers of today
	@uv=$$(./.ci/uv); python3 .ci/stacks.py "$$uv"

format: .venv/stamp ## Format and fix what ruff can fix
	.venv/bin/ruff check --fix-only -q .
	.venv/bin/ruff format .

crd reference: .venv/stamp ## Write what is generated: CRD, admission policies, the table of a pod's fields, docs/reference
	$(PYTHON) -m dcp_operator.generate

# --universal: one lock for every supported Python. No index line may stand in it: it would name a registry.
LOCK := pip compile --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -q
AS_DEV := -c requirements-dev.txt
# The operator's image holds the control plane alone.
ENGINE_ONLY := awscrt numpy obstore tenacity torch

lock: ## Resolve the dependencies anew
	@uv=$$(./.ci/uv); \
	$$uv $(LOCK) pyproject.toml --all-extras --group dev --group bench -o requirements-dev.txt; \
	$$uv $(LOCK) pyproject.toml $(AS_DEV) --extra operator --overrides <(for each in $(ENGINE_ONLY); do \
		echo "$$each; python_version < '3'"; done) -o requirements-operator.txt; \
	$$uv $(LOCK) pyproject.toml $(AS_DEV) --extra worker -o requirements-worker.txt; \
	$$uv $(LOCK) pyproject.toml $(AS_DEV) --extra worker --extra examples -o requirements-examples.txt; \
	echo 'torch>=2.13,<2.16' | $$uv $(LOCK) - $(AS_DEV) -o requirements-torch.txt; \
	echo 'hatchling>=1.27' | $$uv $(LOCK) - -o requirements-build.txt; \
	for stack in $(STACKS); do \
		$$uv $(LOCK) --no-annotate pyproject.toml tests/stacks/$$stack.in -o tests/stacks/requirements-$$stack.txt \
			-c <($(PINNED) | grep -vE '^(fsspec|s3fs|aiobotocore|botocore)='); \
	done

.venv/stamp: requirements-dev.txt pyproject.toml | README.md
	@uv=$$(./.ci/uv) && echo "making .venv: torch is a download of several GB, once" \
		&& { [ -x $(PYTHON) ] || $$uv venv -q --python '>=3.11' .venv; } \
		&& $$uv pip sync -q --compile-bytecode --python $(PYTHON) requirements-dev.txt \
		&& $$uv pip install -q --python $(PYTHON) --no-deps -e .
	@touch $@

# A .venv that is older than one of these tools gets it without being made anew.
.venv/bin/codespell .venv/bin/mkdocs .venv/bin/pre-commit: | .venv/stamp
	@$$(./.ci/uv) pip install -q --python $(PYTHON) -r requirements-dev.txt

cluster: .venv/stamp ## Bring up a real Kubernetes with our images and an S3 server (root on Linux, or kind where Docker is)
	$(PYTHON) tests/cluster/up.py

cluster-down: .venv/stamp ## Remove that cluster and all that it made
	$(PYTHON) tests/cluster/down.py

bench: .venv/stamp ## The engine beside its peers; writes bench.json and bench.png
	$(PYTHON) tests/benchmarks/bench_engine.py

clean: ## Remove what was made here
	rm -rf .venv .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# Most of these tests wait, each in a namespace of its own: tests/e2e/side_by_side.py.
E2E := tests/e2e tests/test_e2e_cluster.py
BESIDE_EACH_OTHER := --numprocesses 4 --dist loadscope

e2e: cluster ## The operator on the cluster that `make cluster` brings up, with kubectl as a user types it (24 min on 2 cores)
	@status=0; $(call TIER,e2e) "e2e and not alone" $(BESIDE_EACH_OTHER) $(E2E) || status=$$?; \
	$(call TIER,e2e-alone) "e2e and alone" $(E2E) || status=$$?; exit $$status

e2e-long: .venv/stamp ## End to end for minutes: everything of a training killed at each point of a request (4 min on 2 cores)
	$(call TIER,e2e-long) e2e_long

bench-reading: .venv/stamp ## What it costs to read what a stranger's checkpoint says, beside unpickling it
	$(PYTHON) tests/benchmarks/bench_reading.py

bench-copy: .venv/stamp ## A copy of 2 GiB between two buckets, beside the store's own client (2 min)
	$(PYTHON) tests/benchmarks/bench_copy.py

bench-agent: .venv/stamp ## What an agent costs at each step, and how long training stands still for a save (1 min)
	$(PYTHON) tests/benchmarks/bench_agent.py

BESIDE := 6cb983e
trace-save: .venv/stamp ## The route of one Save through the modules, and its figures beside those of BESIDE=COMMIT (1 min)
	$(PYTHON) tests/trace_save.py --beside $(BESIDE)

bench-channel: .venv/stamp ## A thousand agents on the operator's channel, against a real API server (6 min)
	$(PYTHON) tests/benchmarks/bench_channel.py

bench-operator: .venv/stamp ## The operator against a real API server; writes bench-operator.json (15 min)
	$(PYTHON) tests/benchmarks/bench_operator.py
