# Each target is one script; `make help` lists them.
cluster := e2e/cluster

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: up
up: ## a kind cluster with a pipeline in it: ends with an order placed and found
	@$(cluster)/up

.PHONY: down
down: ## removes the cluster, and stops the container engine if `make up` started it
	@$(cluster)/down

.PHONY: cluster
cluster: ## the kind cluster and its add-ons, nothing in it yet
	@$(cluster)/packages && $(cluster)/engine && $(cluster)/tools && $(cluster)/create && $(cluster)/addons

.PHONY: test
test: lint unit up ## every test: lint, those on local stores, those on the cluster
	@$(MAKE) e2e

.PHONY: lint
lint: ## formatting, clippy, shellcheck, dependencies' licences and bans
	@$(cluster)/packages
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	shellcheck -x $(cluster)/lib.sh $$(grep -lE '^#!.*(bash|sh)$$' -r $(cluster) .ci)
	@$(cluster)/cargo-deny --all-features check bans licenses sources

.PHONY: unit
unit: ## tests without a cluster: the stores run as local processes
	@$(cluster)/packages && $(cluster)/stores >/dev/null && $(cluster)/schemathesis >/dev/null && $(cluster)/tools >/dev/null
	cargo test --workspace --locked

.PHONY: e2e
e2e: ## all end-to-end tests, on the cluster that `make up` made (E2E="order ready" for some)
	cargo test --locked -p commerce-e2e --features cluster --test cluster -- --test-threads=1 $(E2E)

.PHONY: dev
dev: ## stores and services as plain processes, without a container engine, until Ctrl-C
	@$(cluster)/packages && $(cluster)/stores >/dev/null
	cargo build --locked --bin api --bin relay --bin indexer --bin dev
	@$$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)/debug/dev

.PHONY: bench-api
bench-api: ## order intake against pgbench, cached searches against a bare route; into docs/benchmarks.md
	@$(cluster)/packages wrk postgresql && $(cluster)/stores >/dev/null
	cargo build --release --locked -p commerce-api -p commerce-bench
	@$$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)/release/bench api

.PHONY: bench-relay
bench-relay: ## the relay against Debezium and a bare producer; into docs/benchmarks.md
	@$(cluster)/packages && $(cluster)/stores >/dev/null && $(cluster)/debezium >/dev/null
	cargo build --release --locked -p commerce-relay -p commerce-bench
	@$$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)/release/bench relay

.PHONY: bench-indexer
bench-indexer: ## the indexer against a bare loader and Flink SQL, freshness of the whole; into docs/benchmarks.md
	@$(cluster)/packages wrk && $(cluster)/stores >/dev/null && $(cluster)/flink >/dev/null
	cargo build --release --locked -p commerce-api -p commerce-relay -p commerce-indexer -p commerce-bench
	@$$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)/release/bench indexer

.PHONY: bench-operator
bench-operator: ## the operator with 500 pipelines on an API server without nodes; into docs/benchmarks.md
	@$(cluster)/packages && $(cluster)/stores >/dev/null
	cargo build --release --locked -p commerce-operator -p commerce-bench
	@$$(cargo metadata --locked --no-deps --format-version 1 | jq -r .target_directory)/release/bench operator

.PHONY: generate
generate: ## writes what is made from the code: crds/, docs/crd.md, the charts' tables and schema
	cargo run --locked -q -p commerce-operator --bin crdgen
	cargo run --locked -q -p commerce-e2e --bin chartdocs

.PHONY: images
images: ## makes the images, and copies them into the cluster
	@$(cluster)/images && $(cluster)/load

.PHONY: clean-cache
clean-cache: ## removes everything that was built outside the repository (up to 40 GB)
	@$(cluster)/clean-cache

.PHONY: k6-smoke k6-load k6-steady k6-report
k6-smoke: ## does the pipeline work? One order from the REST call to the search, by a Job in the cluster
	@$(cluster)/k6 smoke

k6-load: ## how does it bear load? 20 users for a minute (VUS=50 DURATION=5m for more)
	@$(cluster)/k6 load

k6-steady: ## does nothing fail while things change? 20 requests a second for a minute (DURATION=5m for longer)
	@$(cluster)/k6 steady

k6-report: ## the newest k6 run's HTML report and summary, into k6/results/
	@$(cluster)/k6 report
