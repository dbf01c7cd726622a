# Bulk encoding on a Ray cluster: `docker build --file helm/images/ray.Dockerfile --tag embedship/embedship:0.1.0-ray .` in the root of a checkout.
# The image has no command because KubeRay starts Ray itself, with bash and `ray start`.
# Pin the base image by digest in your build: --build-arg PYTHON=python:3.11-slim-bookworm@sha256:...
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
# Optional dependencies to install, from pyproject.toml. pip checks the sha256 of every package; for other extras, first
# write their file with `make requirements EXTRAS=...`. An s3 source needs `pull`, Parquet files need `parquet`.
ARG EXTRAS=cpu,ray,parquet,pull,sign
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY helm/images/requirements requirements
COPY embedship embedship
COPY export export
COPY serve serve
COPY monitor monitor
RUN python -m venv /opt/embedship \
    && /opt/embedship/bin/python -m pip install --no-cache-dir --no-compile --require-hashes --requirement "requirements/${EXTRAS}.txt" \
    && /opt/embedship/bin/python -m pip install --no-cache-dir --no-compile --no-deps --no-build-isolation . \
    && /opt/embedship/bin/python -m compileall -q /opt/embedship/lib \
    && /opt/embedship/bin/python -m pip uninstall --yes pip setuptools

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="embedship" \
      org.opencontainers.image.description="Encodes a corpus on a Ray cluster, on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/embedship /opt/embedship
ENV PATH=/opt/embedship/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    HOME=/tmp
USER 65532:65532
WORKDIR /tmp
