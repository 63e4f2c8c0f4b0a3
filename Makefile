# The commands of this project. `make test` and `make lint` install what they need, each thing only
# where it is missing: as root with apt, the Python tools into target/.

lint_bin := target/venv/lint/bin
python_sources := clients/python deploy scripts
shell_sources := .ci/run deploy/trial-secrets scripts/install scripts/test

.PHONY: run test lint bench fmt image

# The vendors' sandbox and the server, with three orders asked for: nothing has to be configured.
run:
	cargo run --release --locked -- demo

test:
	scripts/install test
	scripts/test

lint:
	scripts/install lint
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --locked
	$(lint_bin)/buf lint
	$(lint_bin)/buf format --diff --exit-code
	# cargo-deny reads the licences in the crates' sources, and must not ask the network itself.
	cargo fetch --locked
	$(lint_bin)/cargo-deny --offline check --hide-inclusion-graph licenses bans sources
	$(lint_bin)/hadolint Dockerfile
	$(lint_bin)/shellcheck $(shell_sources)
	# No folder of ours is a Python package: src/grpc is no home of "import grpc".
	$(lint_bin)/ruff check --no-cache --line-length 100 --config 'src = []' $(python_sources)

# How many answers a second, from memory and from a vendor.
bench:
	cargo bench --locked --bench answers

fmt:
	scripts/install lint
	cargo fmt
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
