FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY pgoutbox pgoutbox
COPY sql sql
RUN pip wheel --no-cache-dir --wheel-dir /wheels '.[nkeys]'

FROM python:3.13-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-index --find-links /wheels 'pgoutbox[nkeys]' \
    && rm -r /wheels \
    && useradd --system --no-create-home pgoutbox
USER pgoutbox
# Healthy while the database can be reached and its schema fits this release.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["pgoutbox", "status"]
ENTRYPOINT ["pgoutbox"]
CMD ["relay"]
