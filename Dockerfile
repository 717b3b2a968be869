# The images: `operator` (control plane, no torch), `worker` (what a Checkpoint's pods run), and `examples` (the worker
# with this repository's example workloads and their model). Slow layers come first, so that a change of the code
# rebuilds the last two small layers only.
#
#   docker build --target operator -t dcp-operator .
#
# The base needs Python 3.11 or newer with venv, and CA certificates. Where packages come from is the builder's own
# affair: an optional secret `pip-config` is used as pip's configuration, an optional secret `ca-bundle` as the
# certificates to trust. Neither stays in an image.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS base
ENV PATH=/opt/dcp/bin:$PATH \
    VIRTUAL_ENV=/opt/dcp \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
# torch asks for the user's name; a bare number has none.
RUN useradd --uid 65532 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin nonroot \
    && python3 -m venv /opt/dcp

FROM base AS wheel
COPY requirements-build.txt /src/
RUN --mount=type=secret,id=pip-config,target=/etc/pip.conf --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.crt \
    pip install --require-hashes --no-deps -r /src/requirements-build.txt
COPY pyproject.toml README.md LICENSE /src/
COPY operator /src/operator
COPY worker /src/worker
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist /src

FROM base AS operator
COPY requirements-operator.txt /opt/dcp/
RUN --mount=type=secret,id=pip-config,target=/etc/pip.conf --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.crt \
    pip install --require-hashes --no-deps -r /opt/dcp/requirements-operator.txt
COPY --from=wheel /dist /opt/dcp/dist
RUN pip install --no-index --no-deps /opt/dcp/dist/*.whl
USER 65532:65532
ENTRYPOINT ["python", "-m", "dcp_operator"]

FROM base AS torch
COPY requirements-torch.txt /opt/dcp/
RUN --mount=type=secret,id=pip-config,target=/etc/pip.conf --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.crt \
    pip install --require-hashes --no-deps -r /opt/dcp/requirements-torch.txt

FROM torch AS worker-dependencies
COPY requirements-worker.txt /opt/dcp/
RUN --mount=type=secret,id=pip-config,target=/etc/pip.conf --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.crt \
    pip install --require-hashes --no-deps -r /opt/dcp/requirements-worker.txt

FROM worker-dependencies AS worker
COPY --from=wheel /dist /opt/dcp/dist
RUN pip install --no-index --no-deps /opt/dcp/dist/*.whl
USER 65532:65532
ENTRYPOINT ["python", "-m", "dcp_worker"]

FROM worker-dependencies AS examples
COPY requirements-examples.txt /opt/dcp/
RUN --mount=type=secret,id=pip-config,target=/etc/pip.conf --mount=type=secret,id=ca-bundle,target=/run/ca-bundle.crt \
    pip install --require-hashes --no-deps -r /opt/dcp/requirements-examples.txt
COPY --from=wheel /dist /opt/dcp/dist
RUN pip install --no-index --no-deps /opt/dcp/dist/*.whl
COPY examples /opt/dcp/examples
ENV PYTHONPATH=/opt/dcp/examples
USER 65532:65532
ENTRYPOINT ["python", "-m", "dcp_worker"]
