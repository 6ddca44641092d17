# Everything that people and CI run. `make` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where tests find Envoy and checks find cargo-deny; several checkouts may share one.
ARX_TOOLS ?= target/tools
override ARX_TOOLS := $(abspath $(ARX_TOOLS))
export ARX_TOOLS

# How many worlds `make simulate` lives through; `make test` does with a tenth of it.
RUNS ?= 100000

# Where `make up` keeps its single-machine Arx, and how long its certificates live.
DIR ?= arx-data
TTL ?= 1h

# What `make image` calls it.
IMAGE ?= arx:0.1.0

# How often `make crash` kills.
N ?= 200

CARGO := cargo --locked
RING := --no-default-features --features ring --target-dir target/ring

.PHONY: help build demo demo-distrust up down test step-ca kube helm test-kube manifests image simulate crash bench bench-kube check fmt clippy doc arrows deny rules ring tools envoy etcd clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## build every binary, unoptimised, into target/debug
	$(CARGO) build --workspace --bins

demo: envoy build ## two Envoys talk mTLS while everything is renewed, killed and brought back, and the root replaced (KEEP=1: leave it running)
	target/debug/arx-demo $(if $(KEEP),--keep)

demo-distrust: envoy build ## the key of the root is stolen, and the root cut out: two Envoys under load don't notice, the thief does
	target/debug/arx-demo --distrust

up: build ## start an Arx of one machine in the background (DIR=where, TTL=of certificates)
	target/debug/arx-stack up --dir "$(DIR)" --ttl "$(TTL)"

down: ## stop what `make up` started (DIR=where)
	target/debug/arx-stack down --dir "$(DIR)"

test: envoy etcd build ## all tests, with real Envoys and etcd, and 10,000 simulated rotations
	$(CARGO) test --workspace
	$(MAKE) simulate RUNS=10000

step-ca: ## build step-ca and its command line, once, for the test that puts the authority below it
	@scripts/tools.sh step

kube: ## build a control plane of Kubernetes for the tests, once; or set KUBEBUILDER_ASSETS to one
	[[ -n "$${KUBEBUILDER_ASSETS:-}$${ARX_TEST_KUBECONFIG:-}" ]] || scripts/tools.sh kube
	@scripts/tools.sh csi-sanity

helm: ## build helm, once: it renders the chart
	@scripts/tools.sh helm

test-kube: envoy kube helm build ## the tests in a cluster: a real API server, or that of ARX_TEST_KUBECONFIG
	$(CARGO) test -p arx-tests --test kube -- --ignored

manifests: helm ## render the chart into deploy/manifests, for those without Helm
	"$(ARX_TOOLS)/bin/helm" template arx deploy/chart --namespace arx-system --set trustDomain=example.org > deploy/manifests/arx.yaml
	"$(ARX_TOOLS)/bin/helm" template arx deploy/chart --namespace arx-system --set trustDomain=example.org \
	    --set ca.state=kubernetes,ca.replicas=3 > deploy/manifests/arx-replicas.yaml

image: ## build an image of Arx under the name IMAGE, where buildah, podman or docker is
	@scripts/image.sh "$(IMAGE)"

simulate: ## rotations in worlds where everything goes wrong (RUNS=worlds)
	ARX_SIMULATION_RUNS=$(RUNS) $(CARGO) test --profile simulation -p arx-tests --test simulation -- --nocapture

crash: envoy build ## kill the authority at N=200 random moments of rotations under load
	ARX_CRASH=$(N) $(CARGO) test -p arx-tests --test rotation_crash -- --nocapture

bench-kube: etcd kube ## measure the release binaries in a cluster, with a real API server; writes target/bench-kube.json
	$(CARGO) build --release --workspace --bins
	target/release/arx-bench --kube --output target/bench-kube.json

bench: envoy ## measure the release binaries; writes target/bench.json
	$(CARGO) build --release --workspace --bins
	target/release/arx-bench --output target/bench.json

check: fmt clippy doc arrows deny ## everything that can be said without running Arx

fmt: ## formatting
	cargo fmt --all --check

clippy: ## lints
	$(CARGO) clippy --workspace --all-targets -- -D warnings

doc: ## API documentation without a broken link
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

arrows: ## who may depend on whom, and documents that point nowhere
	$(CARGO) test -p arx-tests --test architecture --test documents

deny: ## licences, sources and banned packages
	@scripts/tools.sh cargo-deny
	"$(ARX_TOOLS)/bin/cargo-deny" --locked check -D warnings licenses bans sources

rules: ## the alert rules, by promtool
	@scripts/tools.sh promtool
	cd deploy/prometheus && "$(abspath $(ARX_TOOLS))/bin/promtool" check rules arx-rules.yaml
	cd deploy/prometheus && "$(abspath $(ARX_TOOLS))/bin/promtool" test rules arx-rules.test.yaml

ring: ## build everything with the other crypto provider, and test identity with it
	! $(CARGO) tree --workspace --no-default-features --features ring -e normal,build | grep aws-lc
	$(CARGO) build --workspace $(RING)
	$(CARGO) test -p arx-identity $(RING)

tools: ## bring what tests and checks need into target/tools, once
	@scripts/tools.sh

envoy: ## of these, Envoy alone: the demo needs no more
	@scripts/tools.sh envoy

etcd: ## of these, etcd alone: tests keep state in it
	@scripts/tools.sh etcd

clean: ## remove what was built, tools included
	cargo clean
