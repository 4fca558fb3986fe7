# docker build -t swift_bids .        or make image; for other GPUs and CPUs, see docs/docker.md
# To include weights, put them into docker/weights (see README.md there) or name Hub ids:
# docker build -t swift_bids:weights --build-arg WEIGHTS="ilex-hub/swift.contrastive.1" \
#   --build-arg WEIGHTS_SHA256=<SHA-256 of its model.safetensors> .
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Install python3-venv if the base is plain Debian.
RUN command -v python3 >/dev/null && python3 -c 'import venv, ensurepip' 2>/dev/null \
    || (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/swift_bids
COPY requirements.lock /src/
# --no-deps, because a package in the lock file requires torch, which the lock file leaves out.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/swift_bids/bin/pip install --require-hashes --no-deps -r /src/requirements.lock
# torch: a pip requirement, and the index where pip looks for it (empty: pip's default index). The
# lock file has already installed its requirements except the CUDA libraries, which torch pins itself.
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/swift_bids/bin/pip install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} "${TORCH}" \
    && /opt/swift_bids/bin/pip check
# For --harmonise; it requires packages that only its own figures need.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/swift_bids/bin/pip install --no-deps combatlearn==2.3.0

# Only the app: when the app changes, only this small layer on top of the large one changes.
FROM build AS app
# The compiler of the kernel is not part of the image.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
COPY pyproject.toml setup.py version README.md LICENSE NOTICE /src/
COPY swift_bids /src/swift_bids
RUN /opt/swift_bids/bin/pip install --no-index --no-deps --no-build-isolation --target /opt/app /src
ARG WEIGHTS=
ARG WEIGHTS_SHA256=
COPY docker/weights /opt/weights/
# Check each bundle as a run would. WEIGHTS_SHA256, if given, must match the only bundle.
RUN export PYTHONPATH=/opt/app PATH=/opt/swift_bids/bin:$PATH; \
    if [ -n "${WEIGHTS}" ]; then \
        python -m swift_bids weights fetch ${WEIGHTS} --to /opt/weights || exit 1; \
    fi; \
    for bundle in /opt/weights/*/; do \
        [ -d "${bundle}" ] || continue; \
        python -m swift_bids weights verify "${bundle}" || exit 1; \
        [ -z "${WEIGHTS_SHA256}" ] \
            || echo "${WEIGHTS_SHA256}  ${bundle}model.safetensors" | sha256sum -c || exit 1; \
    done

FROM ${BASE_IMAGE}
RUN command -v python3 >/dev/null \
    || (apt-get update && apt-get install -y --no-install-recommends python3 \
        && rm -rf /var/lib/apt/lists/*)
# This user is only for shells in the image: the app runs as the user who starts it.
RUN useradd --create-home swift
COPY --from=build /opt/swift_bids /opt/swift_bids
COPY --from=app /opt/app /opt/app
COPY --from=app /opt/weights /opt/weights
COPY run.py version docker/entry /opt/app/
# A .pth file, because Apptainer's --cleanenv and the user's PYTHONPATH must have no effect.
RUN echo /opt/app > "$(/opt/swift_bids/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/app.pth"
ENV PATH=/opt/app/bin:/opt/swift_bids/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SWIFT_BIDS_CONTAINER=docker \
    SWIFT_BIDS_WEIGHTS=/opt/weights
# brainlife's Singularity binds libraries of the host.
RUN ldconfig
USER swift
WORKDIR /tmp
RUN swift-bids --version
ENTRYPOINT ["/opt/app/entry"]
ARG REVISION=
ARG WEIGHTS=
ARG WEIGHTS_SHA256=
LABEL org.opencontainers.image.title="swift_bids" \
      org.opencontainers.image.description="SwiFT embeddings of fMRIPrep derivatives" \
      org.opencontainers.image.version="0.5.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="https://github.com/swift-bids/swift_bids" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.swift-bids.weights="${WEIGHTS}" \
      org.swift-bids.weights.sha256="${WEIGHTS_SHA256}"
