FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY pgoutbox pgoutbox
COPY sql sql
RUN pip wheel --no-cache-dir --wheel-dir /wheels '.[metrics,nkeys,sentry]'

FROM python:3.13-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-index --find-links /wheels 'pgoutbox[metrics,nkeys,sentry]' \
    && rm -r /wheels \
    && useradd --system --no-create-home pgoutbox
# As in wal-listener's image: the configuration is /app/config.yml, the program /app/app.
WORKDIR /app
COPY docker/config.yml docker/app docker/entrypoint ./
ENV PGOUTBOX_CONFIG=/app/config.yml
USER pgoutbox
ENTRYPOINT ["/app/entrypoint"]
CMD ["relay", "--install"]
