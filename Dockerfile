# docmill as an image: for CPUs, or for NVIDIA GPUs with --build-arg VARIANT=cuda. linux/amd64.
#
# What is in it is pinned: the base by its version, every package by its version and the hash of its file in
# docker/requirements-VARIANT.lock (`make lock` writes them). No model is: they are mounted at /models, or downloaded to /data.

ARG PYTHON=3.11.14-slim-bookworm

# What docmill needs: a layer that changes with the locks alone.
FROM python:${PYTHON} AS packages
ARG VARIANT=cpu
# For the CPU variant: the package index that has torch's builds for CPUs, as PyTorch's page "Get started" names it.
# Without it the packages are those for GPUs, which compute on CPUs as well and take three times the room.
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
RUN python -m venv --without-pip /opt/docmill
COPY docker/*.lock /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    packages=$VARIANT; test -n "$PIP_EXTRA_INDEX_URL" || packages=cuda; \
    pip --python /opt/docmill/bin/python install --require-hashes --no-deps --requirement "/tmp/requirements-$packages.lock" \
 && { /opt/docmill/bin/python -m compileall -q -j 0 /opt/docmill/lib || echo "what is for a newer Python was left out"; } \
 && echo /opt/own >/opt/docmill/lib/python3.11/site-packages/own.pth

# docmill itself: a layer of 2 MB.
FROM packages AS build
# The build has no git to ask: `make release` says the version.
ARG VERSION=0.0.0
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --no-deps --root-user-action ignore --requirement /tmp/requirements-build.lock
WORKDIR /src
COPY pyproject.toml README.md LICENSE hatch_build.py ./
COPY docmill docmill
COPY features features
COPY worker worker
COPY tasks tasks
COPY storage storage
RUN SETUPTOOLS_SCM_PRETEND_VERSION=$VERSION \
    pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
 && pip --python /opt/docmill/bin/python install --no-cache-dir --no-deps --target /opt/own /tmp/wheel/*.whl \
 && /opt/docmill/bin/python -m compileall -q -j 0 /opt/own

FROM python:${PYTHON}
ARG VARIANT=cpu
ARG VERSION=0.0.0
LABEL org.opencontainers.image.title="docmill" \
      org.opencontainers.image.description="Summarize, translate and embed whole corpora, with every result in SQL" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="python:3.11.14-slim-bookworm" \
      docmill.variant="${VARIANT}"
RUN useradd --uid 10001 --create-home docmill \
 && install --directory --owner=docmill --mode=0700 /data \
 && install --directory /models /corpus
COPY --from=packages /opt/docmill /opt/docmill
COPY --from=build /opt/own /opt/own

# The hub's client keeps what it downloads under HF_HOME: on a volume, so once.
ENV PATH=/opt/own/bin:/opt/docmill/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DOCMILL_HOME=/data \
    DOCMILL_MODELS_DIR=/models \
    HF_HOME=/data/hub \
    HOME=/tmp
USER 10001
WORKDIR /corpus
VOLUME ["/data"]
# Each device process lives and takes from the queue.
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 CMD ["docmill", "doctor", "--workers"]
ENTRYPOINT ["docmill"]
CMD ["--help"]
