# The commands of this project. `make test`, `make dashboard`, `make lint`, `make fuzz` and `make sbom`
# install what they need, each thing only where it is missing: as root with apt, the tools into target/.

lint_bin := target/venv/lint/bin
python_sources := clients/python deploy scripts
shell_sources := .ci/run deploy/trial-secrets scripts/advisories scripts/fuzz scripts/install scripts/test

# The fuzz targets as cargo-fuzz builds them, but without libFuzzer and the sanitizer, which need a C++
# compiler and RUSTC_BOOTSTRAP. Where a platform is named, the flags are not for what the build runs.
fuzz_flags := --manifest-path fuzz/Cargo.toml --no-default-features --target-dir target \
	--target $(shell rustc --print host-tuple) --locked

.PHONY: run test lint fuzz bench siege dashboard fmt image sbom

# The vendors' sandbox and the server, with three orders asked for: nothing has to be configured.
run:
	cargo run --release --locked -- demo

test:
	scripts/install test
	scripts/test

lint:
	scripts/install lint
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --all-targets --locked -- -D warnings
	RUSTFLAGS="--cfg fuzzing -D warnings" cargo clippy $(fuzz_flags) -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --locked
	$(lint_bin)/buf lint
	$(lint_bin)/buf format --diff --exit-code
	# cargo-deny reads the licences in the crates' sources, and must not ask the network itself.
	cargo fetch --locked
	$(lint_bin)/cargo-deny --offline check --allow license-exception-not-encountered \
		--hide-inclusion-graph licenses bans sources
	cargo fetch --locked --manifest-path fuzz/Cargo.toml
	$(lint_bin)/cargo-deny --offline --manifest-path fuzz/Cargo.toml --config deny.toml \
		check --hide-inclusion-graph licenses bans sources
	scripts/advisories
	$(lint_bin)/hadolint Dockerfile
	$(lint_bin)/shellcheck $(shell_sources)
	# No folder of ours is a Python package: src/grpc is no home of "import grpc".
	$(lint_bin)/ruff check --no-cache --line-length 100 --config 'src = []' $(python_sources)

# A minute for each fuzz target, after a build of its own in target/fuzz/.
fuzz:
	scripts/install fuzz
	scripts/fuzz

# How many answers a second, from memory and from a vendor.
bench:
	cargo bench --locked --bench answers

# Every attack at one time, for a minute.
siege:
	SIEGE_SECONDS=60 cargo test --locked --test it -- --nocapture siege::

# The dashboard of four minutes with trouble of every kind, as a picture for the documentation.
dashboard:
	scripts/install dashboard
	cargo build --locked
	target/venv/dashboard/bin/python deploy/draw_dashboard.py docs/dashboard.png

fmt:
	scripts/install lint
	cargo fmt
	cargo fmt --manifest-path fuzz/Cargo.toml
	$(lint_bin)/buf format --write

# buildah knows health checks in Docker's own format only.
image:
	@if docker info >/dev/null 2>&1; then \
		docker build --tag order-query .; \
	elif command -v buildah >/dev/null; then \
		buildah bud --format docker --tag order-query .; \
	else \
		echo "make image needs a running Docker engine, or buildah; neither is here" >&2; \
		exit 1; \
	fi

# What the program is made of, for each target of deny.toml: target/sbom/.
sbom:
	scripts/install sbom
	python3 scripts/sbom.py
