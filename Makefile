# What people run, and what CI runs. `make help` lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# Nothing is built inside the checkout, and what is built is shared by all checkouts.
export SAMOVAR_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/samovar
export CARGO_TARGET_DIR ?= $(SAMOVAR_CACHE)/target
# The PATH that su leaves to root lacks the folders of sysctl and ip.
export PATH := $(PATH):/usr/sbin:/sbin
# Where the tests find the built programs.
export SAMOVAR_BIN_DIR := $(CARGO_TARGET_DIR)/debug
# A failing test says what it saw; forty frames of the async runtime would hide that.
export RUST_LIB_BACKTRACE ?= 0

CARGO_DENY_VERSION := 0.20.2
CARGO_FUZZ_VERSION := 0.13.2
CARGO_FUZZ := $(SAMOVAR_CACHE)/tools/cargo-fuzz-$(CARGO_FUZZ_VERSION)/bin/cargo-fuzz
CARGO_DENY := $(SAMOVAR_CACHE)/tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny

# Checks what the targets need while make reads this file: before any recipe, even under -j. Not under -n, -q and -t,
# which run nothing.
ifeq ($(strip $(foreach flag,n q t,$(findstring $(flag),$(filter-out --%,$(firstword -$(MAKEFLAGS)))))),)
lacking := $(shell tests/testbed/needs.sh $(or $(MAKECMDGOALS),help))
ifneq ($(.SHELLSTATUS),0)
$(error $(or $(lacking),tests/testbed/needs.sh cannot run: it needs bash and a make of 4.2 or newer))
endif
endif

.PHONY: help
help: ## This list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-17s %s\n", $$1, $$2 }'

# Where `make run` listens.
LISTEN ?= 127.0.0.1:8080

.PHONY: run
run: ## Serve examples/text without a cluster, call it once, and print the answer. Needs Rust and a C compiler.
	cargo build -p samovar-cli
	samovar=$(SAMOVAR_BIN_DIR)/samovar
	state=$$(mktemp -d)
	coproc SERVER { exec $$samovar run examples/text/local/plugin.yaml --listen $(LISTEN) --ops-listen 127.0.0.1:0 --state-dir $$state; }
	server=$$SERVER_PID
	trap 'kill $$server 2>/dev/null || true; rm -rf $$state' EXIT
	read -r ready <&$${SERVER[0]} || { echo "samovar run ended before the plugin was ready; is $(LISTEN) taken? Try make run LISTEN=127.0.0.1:9090" >&2; exit 1; }
	echo "$$ready"
	echo '$$ samovar invoke text upper '"'"'{"text": "hello"}'"'"
	$$samovar invoke --server http://$(LISTEN) text upper '{"text": "hello"}'

.PHONY: test
test: testbed test-needs test-unit test-standalone test-hostile test-apiserver test-chart test-cluster ## All tests. Needs Rust and Go, and root for the cluster.

.PHONY: test-needs
test-needs: ## `make test` on a machine without what it needs: it says so at once, or installs it. Needs root and a mirror of Debian or Ubuntu.
	tests/testbed/test-needs.sh

.PHONY: test-unit
test-unit: ## The tests that need Rust and a C compiler.
	cargo test --workspace

.PHONY: test-apiserver
test-apiserver: programs ## The tests against a real kube-apiserver, etcd and registry. Needs Go to build these.
	bed=$$(tests/testbed/build.sh)
	SAMOVAR_TESTBED_BIN=$$bed cargo test --workspace --test apiserver

.PHONY: test-standalone
test-standalone: programs ## The tests of `samovar` without a cluster. Needs Go to build a registry.
	bed=$$(tests/testbed/build.sh)
	SAMOVAR_TESTBED_BIN=$$bed cargo test --workspace --test standalone

.PHONY: test-hostile
test-hostile: programs ## Guests that mean harm. SAMOVAR_HOSTILE_MODULES=10000 for a longer run, SAMOVAR_HOSTILE_SEED=N for one again.
	cargo test --workspace --test hostile -- --skip neighbour::
	# What it measures is disturbed by the others.
	cargo test --workspace --test hostile -- neighbour::

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: $(CARGO_FUZZ) ## Fuzz what strangers write and Samovar reads, each target of fuzz/ for FUZZ_SECONDS (60).
	PATH=$(dir $(CARGO_FUZZ)):$$PATH fuzz/run.sh $(FUZZ_SECONDS)

.PHONY: test-chart
test-chart: ## The Helm chart: lint, unit tests, its README's table, its objects before a real API server.
	bed=$$(tests/testbed/build.sh)
	PATH=$$bed:$$PATH charts/check.sh

.PHONY: test-cluster
test-cluster: programs ## Samovar on a whole Kubernetes: KUBECONFIG's (SAMOVAR_TEST_CLUSTER=existing), else kind's where Docker works, else one that it starts on this machine.
	bed=$$(tests/testbed/build.sh)
	SAMOVAR_TESTBED_BIN=$$bed tests/testbed/with-cluster.sh cargo test --workspace --test cluster

.PHONY: cluster-up
cluster-up: programs ## Start a cluster of three nodes on this machine, with Samovar's images in its registry. Needs root.
	bed=$$(tests/testbed/build.sh)
	SAMOVAR_TESTBED_BIN=$$bed $(SAMOVAR_BIN_DIR)/samovar-testbed up

.PHONY: cluster-down
cluster-down: programs ## Stop it; nothing is left.
	$(SAMOVAR_BIN_DIR)/samovar-testbed down

.PHONY: images
images: programs ## Push images of the programs as built here to REGISTRY (host:port, without TLS), for a machine without a container builder.
	$(SAMOVAR_BIN_DIR)/samovar-testbed images $(REGISTRY)

# With a test among the targets, so that cargo chooses the features that tests have, and compiles nothing twice.
.PHONY: programs
programs:
	cargo build --workspace --bins --test apiserver --test standalone --test hostile --test cluster

.PHONY: testbed
testbed: ## Build the servers of test-apiserver, once for each version, and print their folder.
	@tests/testbed/build.sh

.PHONY: bench
bench: ## The benchmarks: a call in process, a compile, and calls over HTTP beside an empty server and `wasmtime serve`. Needs jq.
	cargo bench -p samovar-runtime --bench calls --bench compile
	bench/http.sh
	bench/serve.sh

.PHONY: chart-readme
chart-readme: ## Write the table of values in the chart's README anew from the comments in values.yaml.
	bed=$$(tests/testbed/build.sh)
	$$bed/helm-docs --chart-search-root charts/samovar

.PHONY: fmt
fmt: ## Format all Rust code.
	cargo fmt --all

.PHONY: lint
lint: fmt-check clippy deny ## Formatting, clippy, dependencies.

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

# These tests are not among `--all-targets`, since a plain `cargo test` leaves them out.
.PHONY: clippy
clippy:
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --test apiserver --test standalone --test hostile --test cluster -- -D warnings

.PHONY: deny
deny: $(CARGO_DENY) ## Licences, sources and bans of all dependencies.
	$(CARGO_DENY) check --hide-inclusion-graph licenses bans sources

.PHONY: deny-advisories
deny-advisories: $(CARGO_DENY) ## Known vulnerabilities of all dependencies. Needs github.com.
	$(CARGO_DENY) check --hide-inclusion-graph advisories

# Fails where the database of vulnerabilities cannot be reached.
.PHONY: deny-fetch
deny-fetch: $(CARGO_DENY)
	$(CARGO_DENY) fetch db

$(CARGO_FUZZ):
	cargo install --locked --version $(CARGO_FUZZ_VERSION) --root "$(@D)/.." cargo-fuzz

$(CARGO_DENY):
	cargo install --locked --version $(CARGO_DENY_VERSION) --root "$(@D)/.." cargo-deny

.PHONY: crds
crds: programs ## Write crds/generated and the chart's copy anew from the Rust types.
	rm -rf crds/generated charts/samovar/files/crds
	for folder in crds/generated charts/samovar/files/crds; do $(SAMOVAR_BIN_DIR)/samovar crds --write "$$folder"; done

.PHONY: crds-check
crds-check: programs ## Fail where they are not what the Rust types say.
	generated=$$(mktemp -d)
	trap 'rm -rf "$$generated"' EXIT
	$(SAMOVAR_BIN_DIR)/samovar crds --write "$$generated"
	for folder in crds/generated charts/samovar/files/crds; do
	  diff -ru "$$folder" "$$generated" || { echo "$$folder is out of date: run \`make crds\` and commit it." >&2; exit 1; }
	done

.PHONY: examples
examples: ## Build the example modules from source. Needs the wasm32-wasip2 target of Rust.
	$(MAKE) -C examples/text
