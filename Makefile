# The commands of people and of CI. `make help` lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# Nothing is built inside the checkout. Each checkout has a target directory of its own, since tests carry the paths of their
# sources, and all share what cargo builds of dependencies. In cargo's build directory the crates of two checkouts differ by
# nothing but their profile: the number of codegen units tells them apart. It is more than a crate makes use of.
export SAMOVAR_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/samovar
ifndef CARGO_TARGET_DIR
checkout := $(shell printf %s '$(CURDIR)' | cksum | cut -d ' ' -f 1)
export CARGO_TARGET_DIR := $(SAMOVAR_CACHE)/checkouts/$(checkout)
export CARGO_BUILD_BUILD_DIR := $(SAMOVAR_CACHE)/build
export CARGO_PROFILE_DEV_CODEGEN_UNITS := $(shell expr 1000 + $(checkout) % 1000000)
endif
# The PATH that su leaves to root lacks the folders of sysctl and ip.
export PATH := $(PATH):/usr/sbin:/sbin
# The built programs that the tests start.
export SAMOVAR_BIN_DIR := $(CARGO_TARGET_DIR)/debug
# A failing test prints what it saw; forty frames of the async runtime would bury that.
export RUST_LIB_BACKTRACE ?= 0

CARGO_DENY_VERSION := 0.20.2
CARGO_FUZZ_VERSION := 0.13.2
CARGO_FUZZ := $(SAMOVAR_CACHE)/tools/cargo-fuzz-$(CARGO_FUZZ_VERSION)/bin/cargo-fuzz
CARGO_DENY := $(SAMOVAR_CACHE)/tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny

# Checks what the targets need while make reads this file: before any recipe, even under -j. Not under -n, -q and -t,
# which run nothing.
ifeq ($(strip $(foreach flag,n q t,$(findstring $(flag),$(filter-out --%,$(firstword -$(MAKEFLAGS)))))),)
lacking := $(shell testbed/needs.sh $(or $(MAKECMDGOALS),help))
ifneq ($(.SHELLSTATUS),0)
$(error $(or $(lacking),testbed/needs.sh cannot run: it needs bash and a make of 4.2 or newer))
endif
endif

.PHONY: help
help: ## Print this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-17s %s\n", $$1, $$2 }'

# The address of `make run`.
LISTEN ?= 127.0.0.1:8080

.PHONY: run
run: ## Serve examples/text without a cluster, call it, and print the answer. Needs Rust and a C compiler.
	cargo build --workspace --bin samovar
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
test: testbed test-needs test-unit test-standalone test-hostile test-apiserver test-chart test-cluster ## Run all tests. Needs Rust, Go, and root for the cluster.

.PHONY: test-needs
test-needs: ## Test how `make test` reports or installs missing packages. Needs root and a mirror of Debian or Ubuntu.
	testbed/test-needs.sh

.PHONY: test-unit
test-unit: ## Run the unit and integration tests of each crate. Needs Rust and a C compiler.
	cargo test --workspace

.PHONY: test-apiserver
test-apiserver: programs ## Test on a real kube-apiserver, etcd and registry. Needs Go to build these.
	bed=$$(testbed/build.sh)
	SAMOVAR_TESTBED_BIN=$$bed cargo test --workspace --test apiserver

.PHONY: test-standalone
test-standalone: programs ## Test `samovar` without a cluster. Needs Go to build a registry.
	bed=$$(testbed/build.sh)
	SAMOVAR_TESTBED_BIN=$$bed cargo test --workspace --test standalone

.PHONY: test-hostile
test-hostile: programs ## Run hostile guests. SAMOVAR_HOSTILE_MODULES=10000 runs longer, SAMOVAR_HOSTILE_SEED=N repeats a run.
	cargo test --workspace --test hostile -- --skip neighbour::
	# It measures latency, which the others would disturb.
	cargo test --workspace --test hostile -- neighbour::

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: $(CARGO_FUZZ) ## Fuzz the parsers of untrusted input, each target of fuzz/ for FUZZ_SECONDS (60).
	PATH=$(dir $(CARGO_FUZZ)):$$PATH fuzz/run.sh $(FUZZ_SECONDS)

.PHONY: test-chart
test-chart: ## Lint the Helm chart, run its unit tests, and check the table in its README.
	bed=$$(testbed/build.sh)
	PATH=$$bed:$$PATH charts/check.sh

.PHONY: test-cluster
test-cluster: programs ## Test on a cluster: that of KUBECONFIG (SAMOVAR_TEST_CLUSTER=existing), else kind's where Docker works, else a test bed on this machine.
	bed=$$(testbed/build.sh)
	SAMOVAR_TESTBED_BIN=$$bed testbed/with-cluster.sh cargo test --workspace --test cluster

.PHONY: cluster-up
cluster-up: programs ## Start a cluster of three nodes on this machine, with Samovar's images in its registry. Needs root.
	bed=$$(testbed/build.sh)
	SAMOVAR_TESTBED_BIN=$$bed $(SAMOVAR_BIN_DIR)/samovar-testbed up

.PHONY: cluster-down
cluster-down: programs ## Stop that cluster and remove all of it.
	$(SAMOVAR_BIN_DIR)/samovar-testbed down

.PHONY: images
images: programs ## Push images of the built programs to REGISTRY (host:port, without TLS), without a container builder.
	$(SAMOVAR_BIN_DIR)/samovar-testbed images $(REGISTRY)

# The whole workspace here and in `run`, so that cargo chooses the same features, and compiles no dependency twice.
.PHONY: programs
programs:
	cargo build --workspace --bins --test apiserver --test standalone --test hostile --test cluster

# Reading a file renews its access time once a day.
.PHONY: prune
prune: ## Delete from the cache of builds, which all checkouts share, what none has used for a week.
	for folder in $(SAMOVAR_CACHE)/build $(SAMOVAR_CACHE)/checkouts; do
	  [ -d "$$folder" ] || continue
	  find "$$folder" -type f -atime +7 -mtime +7 -delete
	  find "$$folder" -mindepth 1 -type d -empty -delete
	done

.PHONY: testbed
testbed: ## Build the servers of the tests, once for each version, and print their folder.
	@testbed/build.sh

# Codegen units matter to what a release build makes, so that its crates cannot be told apart by them: it shares nothing.
bench: export CARGO_BUILD_BUILD_DIR := $(CARGO_TARGET_DIR)
.PHONY: bench
bench: ## Run the benchmarks: calls and compiles in process, and HTTP against an empty server and `wasmtime serve`. Needs jq.
	cargo bench -p samovar-runtime --bench calls --bench compile
	bench/http.sh
	bench/serve.sh

.PHONY: chart-readme
chart-readme: ## Regenerate the table of values in the chart's README from the comments in values.yaml.
	bed=$$(testbed/build.sh)
	$$bed/helm-docs --chart-search-root charts/samovar

.PHONY: fmt
fmt: ## Format all Rust code.
	cargo fmt --all

.PHONY: lint
lint: fmt-check clippy deny ## Check formatting, clippy and dependencies.

.PHONY: fmt-check
fmt-check:
	cargo fmt --all --check

# `--all-targets` omits these tests, as a plain `cargo test` does.
.PHONY: clippy
clippy:
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --test apiserver --test standalone --test hostile --test cluster -- -D warnings

.PHONY: deny
deny: $(CARGO_DENY) ## Check licences, sources and bans of all dependencies.
	$(CARGO_DENY) check --hide-inclusion-graph licenses bans sources

.PHONY: deny-advisories
deny-advisories: $(CARGO_DENY) ## Check all dependencies for known vulnerabilities. Needs github.com.
	$(CARGO_DENY) check --hide-inclusion-graph advisories

# Fails if the database of vulnerabilities is unreachable.
.PHONY: deny-fetch
deny-fetch: $(CARGO_DENY)
	$(CARGO_DENY) fetch db

$(CARGO_FUZZ):
	cargo install --locked --version $(CARGO_FUZZ_VERSION) --root "$(@D)/.." cargo-fuzz

$(CARGO_DENY):
	cargo install --locked --version $(CARGO_DENY_VERSION) --root "$(@D)/.." cargo-deny

.PHONY: crds
crds: programs ## Regenerate crds/generated and the chart's copy from the Rust types.
	rm -rf crds/generated charts/samovar/files/crds
	for folder in crds/generated charts/samovar/files/crds; do $(SAMOVAR_BIN_DIR)/samovar crds --write "$$folder"; done

.PHONY: crds-check
crds-check: programs ## Check that crds/generated and the chart's copy are up to date.
	generated=$$(mktemp -d)
	trap 'rm -rf "$$generated"' EXIT
	$(SAMOVAR_BIN_DIR)/samovar crds --write "$$generated"
	for folder in crds/generated charts/samovar/files/crds; do
	  diff -ru "$$folder" "$$generated" || { echo "$$folder is out of date: run \`make crds\` and commit it." >&2; exit 1; }
	done

.PHONY: examples
examples: ## Build the examples' Rust modules from source. Needs the wasm32-wasip2 target of Rust.
	for folder in text http; do tests/guests/tools/build-guest.sh "examples/$$folder"; done
	for folder in command secrets-and-hosts; do tests/guests/tools/build-guest.sh "examples/$$folder" --command; done
