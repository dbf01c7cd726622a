# Server for CPUs: `docker build --file helm/images/cpu.Dockerfile --tag embedship/embedship:0.1.0 .` in the root of a checkout.
# Pin the base image by digest in your build: --build-arg PYTHON=python:3.11-slim-bookworm@sha256:...
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
# Optional dependencies to install, from pyproject.toml. pip checks the sha256 of every package; for other extras, first
# write their file with `make requirements EXTRAS=...`. Add `milvus` for an index in Milvus.
ARG EXTRAS=cpu,pull,sign,otel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY helm/images/requirements requirements
COPY embedship embedship
COPY export export
COPY serve serve
COPY monitor monitor
# Of OpenVINO only the CPU plugin and the reader of its own format are kept. The server reads no other format, and this image
# supports no Intel GPU.
RUN python -m venv /opt/embedship \
    && /opt/embedship/bin/python -m pip install --no-cache-dir --no-compile --require-hashes --requirement "requirements/${EXTRAS}.txt" \
    && /opt/embedship/bin/python -m pip install --no-cache-dir --no-compile --no-deps --no-build-isolation . \
    && find /opt/embedship/lib -path '*/openvino/libs/*' \( -name '*_intel_[gn]pu_plugin.so' -o -name cache.json \
       -o -name '*_frontend.so*' ! -name '*_ir_frontend.so*' \) -delete \
    && /opt/embedship/bin/python -m compileall -q /opt/embedship/lib \
    && /opt/embedship/bin/python -m pip uninstall --yes pip setuptools

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="embedship" \
      org.opencontainers.image.description="Serves a bundle: embeddings and search over HTTP, on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/embedship /opt/embedship
# The user owns every folder that the server writes to, so that Docker volumes mounted there belong to the user as well.
RUN install -d -o 65532 -g 65532 /state /cache
ENV PATH=/opt/embedship/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    EMBEDSHIP_HOST=0.0.0.0 \
    EMBEDSHIP_BUNDLE=/bundle \
    EMBEDSHIP_CACHE=/cache \
    HOME=/tmp
USER 65532:65532
WORKDIR /tmp
EXPOSE 8080
# For Docker. Kubernetes ignores it and uses its own probes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --start-interval=1s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('EMBEDSHIP_PORT', '8080') + '/health', timeout=4)"]
ENTRYPOINT ["embedship"]
CMD ["serve"]
