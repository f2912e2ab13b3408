# The developer's entry points; `make help` lists them. Touches build/, .collections/ and the user's cache folder.
# The lab is roles/lab, the tests are in tests/. KEEP=1 leaves the lab of `make demo` or of the tests running.
SHELL := /bin/bash
PYTHON ?= python3
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/gpufleet-warmstart
# One venv for each state of the requirements, shared by all checkouts.
VENV := $(CACHE)/venv-$(shell sha256sum < requirements-dev.txt | cut -c1-12)
BIN := $(VENV)/bin
LAB_DIR := $(CURDIR)/build/lab
REPORT := $(CURDIR)/build/demo
LAB := $(BIN)/ansible-playbook -i localhost, gpufleet.warmstart.lab -e lab_dir=$(LAB_DIR)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.collections
# Ansible wants UTF-8, and a new machine has no locale set.
export LC_ALL := C.UTF-8
.DELETE_ON_ERROR:
.PHONY: help setup demo test chaos bench bench-distribute bench-scale gpu-test lab lab-down lint sanity unit integration browser

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: .collections/ansible_collections/gpufleet/warmstart ## the venv and the collection's link; the others do it by themselves
	@[ -e $(VENV)/.ready ] && $(BIN)/python -c '' 2>/dev/null || { set -e; echo "Setting up $(VENV)"; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { apt-get update -qq; apt-get install -qq --yes python3 python3-venv > /dev/null; }; \
	rm -rf $(VENV); $(PYTHON) -m venv $(VENV); $(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt; \
	touch $(VENV)/.ready; }

.collections/ansible_collections/gpufleet/warmstart:
	@mkdir -p $(@D) && ln -sfn ../../.. $@

lab: setup ## two hosts as containers on this machine; inventory in build/lab/inventory
	$(LAB)

lab-down: setup ## remove them
	$(LAB) -e lab_state=absent

demo: lab ## provision two lab hosts, bake a golden checkpoint, restore it on both, compare with a cold start
	@status=0; $(BIN)/ansible-playbook -i $(LAB_DIR)/inventory gpufleet.warmstart.site -e warmstart_report_dir=$(REPORT) -e benchmark_iterations=2 -e benchmark_warmup=0 || status=$$?; \
	[ -n "$(KEEP)" ] || $(MAKE) --no-print-directory lab-down || status=$$?; \
	[ $$status != 0 ] || { echo; cat $(REPORT)/report.md; }; exit $$status

test: lint sanity browser ## everything: lint, sanity, unit, integration
	$(BIN)/pytest tests/unit tests/integration

lint: setup ## ruff, ansible-lint, changelog fragments
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH=$(BIN):$$PATH $(BIN)/ansible-lint --offline --profile production
	$(BIN)/antsibull-changelog lint

sanity: setup ## ansible-test sanity
	tests/sanity.sh $(BIN) $(CACHE)

unit: setup ## unit tests: no root, no podman
	$(BIN)/pytest tests/unit

browser: ## Chromium, in which the tests look at the report
	@command -v chromium chromium-browser google-chrome > /dev/null || { echo "Installing Chromium"; apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium > /dev/null; }

integration: setup browser ## integration tests on lab hosts
	$(BIN)/pytest tests/integration

chaos: setup ## kill, cut, fill and forge during rollouts on lab hosts; prints a report
	CHAOS=full $(BIN)/pytest -s tests/integration/test_chaos.py

bench: lab ## what Ansible adds to a restore, as ratios in one run on a lab host
	$(BIN)/ansible-playbook -i $(LAB_DIR)/inventory gpufleet.warmstart.provision
	@status=0; PATH=$(BIN):$$PATH PYTHONPATH=.collections $(BIN)/python tests/bench/restore_overhead.py $(LAB_DIR)/inventory || status=$$?; \
	[ -n "$(KEEP)" ] || $(MAKE) --no-print-directory lab-down || status=$$?; exit $$status

bench-distribute: setup ## golden checkpoints to 1, 2, 4, 8 lab hosts: registry against copy and rsync (rsync must be here)
	PATH=$(BIN):$$PATH $(BIN)/python tests/bench/distribute.py

bench-scale: setup ## what the controller spends on a simulated fleet; HOSTS=100, FORKS=20 (docs/scale.md)
	$(BIN)/python tests/bench/scale.py --hosts $(or $(HOSTS),100) --forks $(or $(FORKS),20)

gpu-test: setup ## tests on a GPU host, through the playbooks; GPU_TEST_PYTHON=... names a Python with torch
	PATH=$(BIN):$$PATH $(BIN)/pytest -s -v tests/gpu
