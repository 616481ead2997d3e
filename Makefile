# `make help` says what there is. Everything a target needs is set up on its first use.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# Options of `make run`, `make test` and `make bench`, as in: make run ARGS="--port 11119"
ARGS ?=
# Processor of the gateway and the functions: arm64 or x86_64.
ARCHITECTURE ?= arm64
# What builds the gateway's image, docker or podman; its base, for production by digest; its name.
CONTAINERS ?= $(firstword $(shell command -v docker podman))
BASE ?= python:3.13-slim-bookworm
REPOSITORY ?= lenticular-gateway

export SAM_CLI_TELEMETRY := 0
# Where nothing is deployed any region will do. Never where an image is pushed, which goes where the AWS CLI is set up to go.
run test test-all check lint bench build: export AWS_DEFAULT_REGION ?= eu-central-1

VENV := .venv/bin
UV := $(VENV)/python infra/run_uv.py
SOURCES := layers/core/lenticular gateway functions infra tests
# A file of tests stays on one core: its tests share a gateway or a cloud.
PYTEST := $(VENV)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' Makefile

.PHONY: run
run: python ## Start the node offline; options in ARGS="--port 11119 --aet CLINIC"
# Ctrl-C goes to every process in front on the terminal, make included, which then fails whatever the
# node returns. So where we are in front (fields 5 and 8 of stat: our process group, the one in front),
# job control puts the node there alone; it drains, and make sees its 0.
	@read -ra self </proc/$$$$/stat; [ "$${self[4]}" != "$${self[7]}" ] || set -m; \
	$(VENV)/python -m infra.local $(ARGS); exit $$?

.PHONY: test
test: python dcmtk gdcm orthanc dcmjs dynamodb ## Run the tests that take seconds; pytest's options in ARGS
	$(PYTEST) -m "not slow and not image" $(ARGS)

.PHONY: test-all
test-all: test sam ministack ## Run the slow tests too
	$(PYTEST) -m slow $(ARGS)

.PHONY: test-image
test-image: python dcmtk containers ## Build the gateway's image and run it; needs root, asks no registry of images
	$(VENV)/python -m pytest -m image tests/image $(ARGS)

.PHONY: check
check: lint test ## Run every check and the tests; must pass before a commit

.PHONY: lint
lint: python sam checkov ## Run every check but the tests
	$(VENV)/ruff format --check
	$(VENV)/ruff check
	$(VENV)/mypy $(SOURCES)
	$(VENV)/lint-imports --no-logo
	$(VENV)/deptry .
	$(VENV)/codespell
	$(VENV)/cfn-lint template.yaml infra/*.yaml
	$(VENV)/hadolint gateway/Dockerfile
	.venv-sam/bin/sam validate --lint
	.venv-checkov/bin/checkov --file template.yaml infra/*.yaml

.PHONY: fmt
fmt: python ## Format the code and mend what ruff can
	$(VENV)/ruff check --fix-only
	$(VENV)/ruff format

.PHONY: guide
guide: python ## Write anew what of the guide comes from the code: the Conformance Statement, the cost
	$(VENV)/python -m infra.conformance
	$(VENV)/python -m infra.shown_output

.PHONY: bench
bench: python dcmtk gdcm orthanc dynamodb ## Measure speed beside other servers; options in ARGS
	$(VENV)/python -m tests.bench $(ARGS)

.PHONY: build
build: python sam ## Build what sam deploys, into .aws-sam; ARCHITECTURE=arm64 or x86_64
	UV="$(CURDIR)/$(VENV)/python $(CURDIR)/infra/run_uv.py" ARCHITECTURE=$(ARCHITECTURE) \
	.venv-sam/bin/sam build --parameter-overrides Architecture=$(ARCHITECTURE) $(ARGS)

VERSION = $(shell sed -n 's/^__version__.*"\(.*\)"/\1/p' layers/core/lenticular/__init__.py)
.PHONY: image
image: ## Build the gateway's image; BASE=image@sha256:..., CONTAINERS=docker or podman
	$(CONTAINERS) build --platform linux/$(subst x86_64,amd64,$(ARCHITECTURE)) --build-arg BASE=$(BASE) \
	    --build-arg VERSION=$(VERSION) --file gateway/Dockerfile --tag $(REPOSITORY):$(VERSION) $(ARGS) .

.PHONY: push-image
push-image: image ## Push the image to the account's registry and print its name, for the parameter GatewayImage
	@infra/push_image.sh "$(CONTAINERS)" "$(REPOSITORY)" "$(VERSION)"

.PHONY: cloud-image
cloud-image: ## Build and push the image on AWS, where there is no Docker here; prints the same
	@infra/build_image.sh "$(REPOSITORY)" "$(VERSION)" "$(ARCHITECTURE)" $(if $(filter-out file,$(origin BASE)),"$(BASE)")

.PHONY: sbom
sbom: image ## Write what the image is made of to sbom.json (CycloneDX), by the Python in it
	$(CONTAINERS) run --rm --interactive --entrypoint python3 $(REPOSITORY):$(VERSION) - <infra/sbom.py >sbom.json

LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links
# What a layer needs and the Lambda runtime has.
OF_THE_RUNTIME := botocore jmespath python-dateutil six urllib3
.PHONY: lock
# The main index alone: another one may hold only some files of a release, and the lock only their hashes.
lock: export UV_INDEX :=
lock: export UV_FIND_LINKS :=
lock: python ## Write the locks anew from pyproject.toml; ARGS="--upgrade" for newer versions
	$(LOCK) $(ARGS) pyproject.toml --group dev -o requirements/dev.lock
	$(LOCK) $(ARGS) pyproject.toml -c requirements/dev.lock -o requirements/gateway.lock
	$(LOCK) $(ARGS) --group uv -c requirements/dev.lock -o requirements/installer.lock
	$(LOCK) $(ARGS) --group sam -o requirements/sam.lock
	$(LOCK) $(ARGS) --group checkov -o requirements/checkov.lock
	$(LOCK) $(ARGS) --group ministack -o requirements/ministack.lock
	$(LOCK) $(ARGS) --group peers -o requirements/peers.lock
	$(LOCK) $(ARGS) --group layer -c requirements/dev.lock $(OF_THE_RUNTIME:%=--no-emit-package %) -o layers/deps/requirements.txt
	$(subst 3.11,3.13,$(LOCK)) $(ARGS) --group codecs -c requirements/dev.lock -o layers/codecs/requirements.txt

.PHONY: clean
clean: ## Remove everything that a target made, environments included
	rm -rf .venv .venv-* tests/peers/javascript/node_modules .aws-sam .lenticular .hypothesis .*_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What targets need.
PARTS := python sam checkov ministack dcmtk gdcm orthanc dcmjs dynamodb containers
.PHONY: $(PARTS)
$(PARTS):
	@infra/setup.sh $@
