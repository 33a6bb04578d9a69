# The two commands: `make up` deploys on this machine, `make test` proves that everything works.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# If empty, MAGI_PROFILE, the inventory or the default (development) decides.
PROFILE ?=
# make up MODELS=~/models: folders with .gguf files; make up MODELS= goes back to the demo.
ifeq ($(origin MODELS),command line)
export MODEL_SCAN_PATH = $(MODELS)
endif
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
COLLECTION := collections/ansible_collections/magi/models
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# Show progress as it happens, also in a pipe.
export PYTHONUNBUFFERED := 1
export PATH := $(BIN):$(PATH)

-include make.d/*.mk

.PHONY: help prepare up down status programs pinned test unit e2e lint style sanity units docs clean

help: ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# --- the virtual environment -------------------------------------------------------------------------------------

$(VENV)/bin/python:
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
	  echo 'The controller needs Python 3.11 or later: set PYTHON=/path/to/python3.' >&2; exit 1
	fi
	if ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3-venv
	  else
	    echo 'Python has no venv module: install it (Debian: apt-get install python3-venv) and run again.' >&2; exit 1
	  fi
	fi
	$(PYTHON) -m venv $(VENV)

# What a deployment needs; the stamps make an unchanged environment cost nothing.
$(VENV)/up.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[serve]'
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,serve]'
	touch $@ $(VENV)/up.stamp

# --- this machine ------------------------------------------------------------------------------------------------

# Whoever has named models or a llama-server need not do so again.
prepare: $(VENV)/up.stamp
	python -m magi.remember $(if $(filter command,$(origin MODELS)),MODEL_SCAN_PATH) \
	  $(if $(filter command,$(origin LLAMA_SERVER_PATH)),LLAMA_SERVER_PATH)
	ansible-playbook playbooks/prepare.yml

up: prepare ## Deploy PROFILE (default: that of the settings) on this machine: llama-server, MODELS, services, report
	ansible-playbook site.yml $(if $(PROFILE),-e profile=$(PROFILE))

down: $(VENV)/up.stamp ## Stop and remove everything that `make up` started
	ansible-playbook playbooks/teardown.yml

status: $(VENV)/up.stamp ## Show what runs
	ansible-playbook playbooks/status.yml

# --- tests -------------------------------------------------------------------------------------------------------

# How workers share the end-to-end tests: tests/conftest.py
TWO_AT_A_TIME := -n 2 --dist loadgroup

# Programs of the distribution's without which tests skip; its services are not started. haproxy and promtool are for unit
# tests, too, which `lint` runs.
programs: $(VENV)/dev.stamp
	missing=()
	command -v haproxy >/dev/null || missing+=(haproxy)
	command -v promtool >/dev/null || missing+=(prometheus prometheus-node-exporter)
	command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core)
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ $${#missing[@]} != 0 ]; then
	  ansible localhost -m ansible.builtin.apt -a \
	    "name=$$(IFS=,; echo "$${missing[*]}") install_recommends=false update_cache=true policy_rc_d=101"
	fi

# The build that the tests were written for, whatever llama-server this machine has.
pinned: programs
	MODEL_SCAN_PATH= MAGI_DOTENV=/dev/null ansible-playbook playbooks/prepare.yml -e llama_server_install_method=source \
	  -e llama_server_path=$(HOME)/.cache/magi/llama.cpp/current/llama-server

# Tests on the hosts are for one worker, which then takes of those on this machine what is left. They bring up hosts and
# docker daemon; what was not there before is gone afterwards. pip compiles nothing: most of what it installs for tests is
# never imported.
test: export PIP_COMPILE := 0
test: programs lint pinned ## Everything: lint, unit and end-to-end tests, a fleet in containers
	molecule/hosts/hosts.py inventory &>/dev/null || trap 'molecule/hosts/hosts.py down --engine' EXIT
	pytest tests -m 'not e2e and not fleet' -n auto # those of the collection: `lint` has run them
	pytest tests -m 'e2e or fleet' $(TWO_AT_A_TIME) --durations 10

unit: $(VENV)/dev.stamp ## Unit tests: seconds, no llama-server needed
	pytest -m 'not e2e and not fleet' -n auto

e2e: pinned ## End-to-end tests on the real llama-server
	pytest tests -m e2e $(TWO_AT_A_TIME)

lint: $(VENV)/dev.stamp ## All that reads the code, and the collection's unit tests
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target sanity style units

style: $(VENV)/dev.stamp ## ruff, mypy, ansible-lint, changelog and documentation
	ruff check .
	ruff format --check .
	mypy
	ansible-lint
	cd $(COLLECTION)
	antsibull-changelog lint
	antsibull-docs lint-collection-docs --plugin-docs .

docs: $(VENV)/dev.stamp ## Write docs/reference.md, docs/alerts.md and the man page from the code
	docs/generate.py

sanity: $(VENV)/dev.stamp ## ansible-test sanity and Galaxy's importer, as for any collection
	./tests/ansible-test.sh sanity
	./tests/galaxy-importer.sh

units: $(VENV)/dev.stamp ## The collection's unit tests, run by ansible-test
	./tests/ansible-test.sh units

clean: ## Remove the virtual environment and caches of tools (not data/)
	rm -rf $(VENV) .ansible .pytest_cache .ruff_cache .hypothesis
