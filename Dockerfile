FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS base

FROM base AS build
WORKDIR /src
COPY requirements/build.txt requirements/image.txt requirements/
RUN pip install --no-cache-dir --require-hashes --requirement requirements/build.txt
RUN pip wheel --no-build-isolation --require-hashes --wheel-dir /wheels \
    --requirement requirements/image.txt
COPY pyproject.toml hatch_build.py README.md CHANGELOG.md LICENSE ./
COPY pgoutbox pgoutbox
COPY sql sql
RUN pip wheel --no-build-isolation --no-deps --wheel-dir /wheels .

FROM base
LABEL org.opencontainers.image.title="pgoutbox" \
    org.opencontainers.image.description="PostgreSQL row changes on NATS, without a replication slot" \
    org.opencontainers.image.licenses="Apache-2.0"
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps /wheels/*.whl \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin pgoutbox
# As in wal-listener's image: the configuration is /app/config.yml, the program /app/app.
WORKDIR /app
COPY docker/config.yml docker/app docker/entrypoint ./
ENV PGOUTBOX_CONFIG=/app/config.yml
# By number, for Kubernetes's runAsNonRoot can't tell that a name isn't root's.
USER 10001:10001
ENTRYPOINT ["/app/entrypoint"]
CMD ["relay", "--install"]
