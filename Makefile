# The two commands: `make demo` and `make test`. Everything else is a part of them.
#
# What they need is installed or built, pinned, and kept in $(CACHE); a second run finds it there.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kof-istio
CARGO_DENY := 0.20.2
DENY := $(CACHE)/cargo-deny-$(CARGO_DENY)/bin/cargo-deny
E2E := target/release/e2e
DNSMASQ := /usr/sbin/dnsmasq
SOFTHSM := /usr/lib/softhsm/libsofthsm2.so
PKCS11_TOOL := /usr/bin/pkcs11-tool
CERTTOOL := /usr/bin/certtool
export CACHE
# a failed test says what it saw; the stack below it says nothing more
export RUST_BACKTRACE := 0

.PHONY: help demo demo-down test check fmt clippy deny unit fuzz fuzz-short fleet-tests crds chart-readme chart-check build bench bench-ca advisories

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

demo: build ## Three real clusters, one label, a metric across them; leaves them running
	$(E2E) demo

demo-down: ## Stop what `make demo` left running
	$(E2E) down

test: check unit fuzz-short fleet-tests ## All tests: rules, lints, certificates, real Envoys, real clusters, faults

check: fmt clippy deny chart-check ## Formatting, lints, dependencies, the chart's README

FUZZING := --manifest-path ca/fuzz/Cargo.toml

fmt:
	cargo fmt --all --check
	cargo fmt $(FUZZING) -p mesh-fuzz -p mesh-fuzz-api -p mesh-fuzz-agent --check

clippy:
	cargo clippy --workspace --all-targets --locked -- -D warnings

deny: $(DENY)
	$(DENY) --workspace --all-features --locked check bans licenses sources
	$(DENY) $(FUZZING) --workspace --config deny.toml --locked check bans licenses sources
	@echo "advisories are not part of this: their database is not in the package registries; see make advisories"

advisories: $(DENY) ## Known vulnerabilities of dependencies, where the advisory database can be reached
	$(DENY) --workspace --all-features --locked check advisories
	$(DENY) $(FUZZING) --workspace --config deny.toml --locked check advisories

$(DENY):
	cargo install cargo-deny --version $(CARGO_DENY) --locked --root $(CACHE)/cargo-deny-$(CARGO_DENY)

# All tests are built with one selection of packages: another would build the dependencies once more.
TESTS := cargo test --workspace --locked

unit: build $(DNSMASQ) $(SOFTHSM) $(PKCS11_TOOL) $(CERTTOOL) ## Everything that needs no cluster
	ENVOY_BIN=$$($(E2E) program envoy | tail -n 1) JUDGE_BIN=$$($(E2E) program judge | tail -n 1) \
	  $(TESTS) --lib --bins --test envoy --test conformance -- --include-ignored

fuzz-short: ## Every fuzz target, for a number of inputs
	ca/fuzz/run short

fuzz: ## One fuzz target for long: make fuzz TARGET=csr TIME=3600
	ca/fuzz/run long $(or $(TARGET),$(error TARGET: one of $(notdir $(wildcard ca/fuzz/seeds/*)))) $(or $(TIME),3600)

fleet-tests: build $(SOFTHSM) $(PKCS11_TOOL) ## The tests on real clusters
	$(E2E) prepare
	$(TESTS) --test fleet -- --test-threads=1 --nocapture
	$(E2E) down

$(DNSMASQ):
	apt-get update -q && apt-get install -y -q --no-install-recommends dnsmasq-base

$(SOFTHSM) $(PKCS11_TOOL) &:
	apt-get update -q && apt-get install -y -q --no-install-recommends softhsm2 opensc

$(CERTTOOL):
	apt-get update -q && apt-get install -y -q --no-install-recommends gnutls-bin

build:
	cargo build --release --locked -p mesh-controller -p mesh-e2e

crds: ## Write the CRDs of the chart, and what its values say of them, from the types
	cargo run -q -p mesh-controller -- crds -o charts/kof-istio/crds
	cargo run -q -p mesh-controller -- crds --values-schema charts/kof-istio/values.schema.json

# Its version and those of what it is made from are pinned; the compiler's cache keeps it.
HELM_DOCS := cd e2e/components/helm-docs && GOFLAGS="-mod=readonly -buildvcs=false" go tool helm-docs \
	--chart-search-root ../../../charts --sort-values-order file --log-level warning

chart-readme: ## Write the chart's README from its values
	$(HELM_DOCS)

chart-check:
	diff -u charts/kof-istio/README.md <($(HELM_DOCS) --dry-run) || { echo "the chart's README is old: make chart-readme" >&2; exit 1; }
	! grep -n '| *|$$' charts/kof-istio/README.md || { echo "these values are not explained" >&2; exit 1; }

bench: build ## The figures of docs/performance.md
	$(E2E) bench

bench-ca: build ## What a workload certificate costs, beside istiod and step-ca (docs/performance.md)
	$(E2E) bench-ca
