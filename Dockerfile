# The image of order-query: the one binary, the system's TLS roots, and nothing to log in to.
# `make image` builds it. The configuration is mounted at /etc/order-query/config/config.toml, in a folder of
# its own as in Kubernetes, and a store that is a file at /var/lib/order-query.

FROM rust:1.95-bookworm AS build
# `cargo auditable` writes the names and versions of all that is built in into the binary.
RUN cargo install --locked cargo-auditable@0.7.7
WORKDIR /src
# The dependencies first, in a layer of their own, with a stand-in for our code: they change rarely
# and take nearly all of the time.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo auditable build --release --locked
COPY src src
# COPY keeps the files' own times, which may be earlier than the stand-in's build: without a touch
# cargo would take the stand-in for up to date.
RUN touch build.rs src/lib.rs src/main.rs \
    && cargo auditable build --release --locked --bin order-query
RUN mkdir /store

# The glibc of the stage above; CA certificates; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="order-query" \
      org.opencontainers.image.description="One gRPC contract over the orders of several vendors, within the vendors' own rules." \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /src/target/release/order-query /usr/local/bin/order-query
# A volume that is new takes the owner of what it is mounted over.
COPY --from=build --chown=65532:65532 /store /var/lib/order-query
# The number of `nonroot`: a kubelet told `runAsNonRoot` cannot check a name.
USER 65532:65532
# gRPC; health and metrics.
EXPOSE 50051 9090
# The three waits are Docker's own defaults, but for the start: up in a second, or not at all.
HEALTHCHECK --interval=30s --timeout=5s --start-period=2s \
    CMD ["/usr/local/bin/order-query", "health"]
ENTRYPOINT ["/usr/local/bin/order-query"]
CMD ["serve", "--config", "/etc/order-query/config/config.toml"]
