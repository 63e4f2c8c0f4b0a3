# The commands of this project. `make test`, `make dashboard`, `make lint`, `make fuzz` and `make sbom`
# install what they need, each thing only where it is missing: as root with apt, the tools into target/.

lint_bin := target/venv/lint/bin
python_sources := clients/python deploy scripts
shell_sources := .ci/run deploy/trial-secrets scripts/advisories scripts/fuzz scripts/install scripts/release-check \
	scripts/test

# GitHub's own files, held against the schemas that the linter carries.
github_schema := $(lint_bin)/check-jsonschema --builtin-schema vendor.github

# What `make lint` could not check, a line each.
unchecked := target/lint-unchecked

# The image's names: the one for people, and the one that the manifests ask for.
image_tags := --tag order-query --tag order-query:$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

# The fuzz targets as cargo-fuzz builds them, but without libFuzzer and the sanitizer, which need a C++
# compiler and RUSTC_BOOTSTRAP. Where a platform is named, the flags are not for what the build runs.
fuzz_flags := --manifest-path fuzz/Cargo.toml --no-default-features --target-dir target \
	--target $(shell rustc --print host-tuple) --locked

.PHONY: help run test lint fuzz bench bench-parts siege simulate simulate-mistakes dashboard fmt image sbom

# The first: what `make` alone does. A target's one line is behind its `##`.
help: ## shows this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand --tabs=20

run: ## the demo: sandbox vendors and a server, with three orders asked for; nothing has to be configured
	cargo run --release --locked -- demo

test: ## builds, and runs every test, Python and Rust; the last line says how many passed and failed
	scripts/install test
	scripts/test

lint: ## formats, warnings, licences, advisories and manifests; the last line says what was not checked
	@rm -f $(unchecked)
	scripts/install lint
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --all-targets --locked -- -D warnings
	RUSTFLAGS="--cfg fuzzing -D warnings" cargo clippy $(fuzz_flags) --lib --bins --examples -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --locked
	$(lint_bin)/buf lint
	$(lint_bin)/buf format --diff --exit-code
	# Of the last release: contracts/ holds no other.
	$(lint_bin)/buf breaking --against contracts/$(notdir $(wildcard contracts/*))
	# cargo-deny reads the licences in the crates' sources, and must not ask the network itself.
	cargo fetch --locked
	$(lint_bin)/cargo-deny --offline check --allow license-exception-not-encountered \
		--hide-inclusion-graph licenses bans sources
	cargo fetch --locked --manifest-path fuzz/Cargo.toml
	$(lint_bin)/cargo-deny --offline --manifest-path fuzz/Cargo.toml --config deny.toml \
		check --hide-inclusion-graph licenses bans sources
	scripts/advisories $(unchecked)
	$(lint_bin)/hadolint Dockerfile
	$(lint_bin)/shellcheck $(shell_sources)
	$(github_schema)-workflows .github/workflows/*.yml
	$(github_schema)-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(github_schema)-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(lint_bin)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	# No folder of ours is a Python package: src/grpc is no home of "import grpc".
	$(lint_bin)/ruff check --no-cache --line-length 100 --config 'src = []' $(python_sources)
	@if [ -s $(unchecked) ]; then \
		echo "lint: passed, but NOT CHECKED: $$(cat $(unchecked))"; \
	else \
		echo "lint: passed"; \
	fi

fuzz: ## a minute for each fuzz target, after a build of its own in target/fuzz/
	scripts/install fuzz
	scripts/fuzz

bench: ## what an answer costs, beside a bare server; some ten minutes after the build
	cargo bench --locked --bench answers

bench-parts: ## what the parts of an answer cost, without a network, after a build of its own in target/parts/
	RUSTFLAGS="--cfg fuzzing" cargo run --release --manifest-path fuzz/Cargo.toml --no-default-features \
		--target-dir target/parts --locked --example parts -- --bench

siege: ## every attack at one time, for a minute: memory, probes and other callers
	cargo build --release --locked
	SIEGE_SECONDS=60 SIEGE_BINARY=target/release/order-query cargo test --locked --test it -- --nocapture siege::

simulate: ## replicas, their Redis and a vendor in simulated time, under faults of every kind: 10,000 seeds
	SIMULATE_SEEDS=$${SIMULATE_SEEDS:-10000} cargo test --profile simulate --locked --test it -- --nocapture \
		simulation::

simulate-mistakes: ## plants each mistake of tests/simulation-mistakes.toml, and expects the simulation to find it
	python3 scripts/simulation_mistakes.py

dashboard: ## draws docs/dashboard.png from a real run of four minutes with trouble of every kind
	scripts/install dashboard
	cargo build --locked
	target/venv/dashboard/bin/python deploy/draw_dashboard.py docs/dashboard.png

fmt: ## formats Rust and the contract
	scripts/install lint
	cargo fmt
	cargo fmt --manifest-path fuzz/Cargo.toml
	$(lint_bin)/buf format --write

# buildah knows health checks in Docker's own format only.
image: ## builds the container image, with Docker or buildah
	@if docker info >/dev/null 2>&1; then \
		docker build $(image_tags) .; \
	elif command -v buildah >/dev/null; then \
		buildah bud --format docker $(image_tags) .; \
	else \
		echo "make image needs a running Docker engine, or buildah; neither is here" >&2; \
		exit 1; \
	fi

sbom: ## writes what the program is made of, for each target of deny.toml, to target/sbom/
	scripts/install sbom
	python3 scripts/sbom.py
