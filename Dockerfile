# docker build -t swift_bids .                                              PyTorch's default: CUDA
# docker build -t swift_bids:cpu --build-arg TORCH_INDEX=<wheel index> .    another build of PyTorch,
#   from the index that PyTorch's own install page names for it: CPU, or CUDA 12.6 for V100 and P100
# With weights in it: lay them in docker/weights, see README.md there, or name Hub ids:
# docker build -t swift_bids:weights --build-arg WEIGHTS="ilex-hub/swift.contrastive.1" \
#   --build-arg WEIGHTS_SHA256=<of its model.safetensors> .
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Which torch: a pip requirement, and where to look for it (empty: pip's own index).
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
# python3-venv where the base is plain Debian
RUN command -v python3 >/dev/null && python3 -c 'import venv, ensurepip' 2>/dev/null \
    || (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/swift_bids
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/swift_bids/bin/pip install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} "${TORCH}"
COPY pyproject.toml version README.md LICENSE NOTICE /src/
COPY swift_bids /src/swift_bids
RUN --mount=type=cache,target=/root/.cache/pip /opt/swift_bids/bin/pip install /src
ARG WEIGHTS=
ARG WEIGHTS_SHA256=
COPY docker/weights /opt/weights/
# Each is checked as a run would; the SHA-256, where one is given, must be that of the only one.
RUN if [ -n "${WEIGHTS}" ]; then /opt/swift_bids/bin/swift-bids weights fetch ${WEIGHTS} --to /opt/weights; fi \
    && for bundle in /opt/weights/*/; do \
           [ -d "${bundle}" ] || continue; \
           /opt/swift_bids/bin/swift-bids weights verify "${bundle}" || exit 1; \
           [ -z "${WEIGHTS_SHA256}" ] \
               || echo "${WEIGHTS_SHA256}  ${bundle}model.safetensors" | sha256sum -c || exit 1; \
       done

FROM ${BASE_IMAGE}
RUN command -v python3 >/dev/null \
    || (apt-get update && apt-get install -y --no-install-recommends python3 \
        && rm -rf /var/lib/apt/lists/*)
COPY --from=build /opt/swift_bids /opt/swift_bids
COPY --from=build /opt/weights /opt/weights
COPY run.py version /opt/swift_bids/
ENV PATH=/opt/swift_bids/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SWIFT_BIDS_CONTAINER=docker \
    SWIFT_BIDS_WEIGHTS=/opt/weights
RUN useradd --create-home swift
USER swift
WORKDIR /tmp
RUN swift-bids --version
ENTRYPOINT ["/opt/swift_bids/bin/python", "/opt/swift_bids/run.py"]
ARG WEIGHTS=
ARG WEIGHTS_SHA256=
LABEL org.opencontainers.image.title="swift_bids" \
      org.opencontainers.image.description="SwiFT embeddings of fMRIPrep derivatives" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.swift-bids.weights="${WEIGHTS}" \
      org.swift-bids.weights.sha256="${WEIGHTS_SHA256}"
