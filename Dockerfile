# docmill as an image: one virtual environment, built in one stage and copied into a slim one. Runs as an ordinary user.
FROM python:3.12-slim-bookworm AS build

# A build machine that wants another torch (for CPUs only, say) names the package index that serves it here.
ARG PIP_EXTRA_INDEX_URL=""

RUN python -m venv /opt/docmill
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY worker worker
COPY tasks tasks
COPY storage storage
# Editable, so that the packages stay beside examples/models, where the quick start's models are looked for.
RUN --mount=type=cache,target=/root/.cache/pip /opt/docmill/bin/pip install --editable '.[quickstart]'

FROM python:3.12-slim-bookworm

RUN useradd --uid 10001 --create-home docmill \
 && install --directory --owner=docmill /data /models /corpus
COPY --from=build /opt/docmill /opt/docmill
COPY --from=build /app /app
COPY examples/models /app/examples/models
COPY docker/healthcheck.py /app/docker/healthcheck.py

# HF_HOME is where the model hub's client keeps what it downloads: on a volume, so once.
ENV PATH=/opt/docmill/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DOCMILL_HOME=/data \
    DOCMILL_MODELS_DIR=/models \
    HF_HOME=/models/.hub
USER docmill
WORKDIR /corpus
VOLUME ["/data", "/models"]
ENTRYPOINT ["docmill"]
CMD ["--help"]
