# The image of a node: the binary on the C library, with no shell and nothing else, run by a user who is not root.
#
# scripts/base_images.sh makes both images named by FROM where no registry is in reach.

FROM rust:1.95-slim-bookworm AS build
LABEL org.opencontainers.image.title=quorate
WORKDIR /build
# Backtraces name functions without it, and the binary is a quarter of the size.
ENV CARGO_PROFILE_RELEASE_DEBUG=none
# The dependencies first, under an empty program: this layer is made anew only when the manifest or the lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo '//! Empty.' | tee src/lib.rs >src/main.rs \
    && echo 'fn main() {}' >>src/main.rs \
    && cargo build --release --locked \
    && cargo clean --release --package quorate
COPY . .
RUN cargo build --release --locked --bin quorate

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title=quorate
COPY --from=build /build/target/release/quorate /usr/local/bin/quorate
# Within a container loopback reaches nobody. On any other address a node wants CLUSTER_TOKEN.
ENV HOST=0.0.0.0 PORT=5000
# Which node the client commands ask: `docker compose exec leader quorate status`.
ENV QUORATE_URL=http://127.0.0.1:5000
EXPOSE 5000
# The form without a shell: the node is process 1 and hears the SIGTERM of `docker stop`.
ENTRYPOINT ["quorate"]
CMD ["serve"]
