# The one image of a cluster: the jobs, the endpoint and the command line.
#
#   docker build -t stillhouse:0.1.0 .                    # CUDA, the default
#   docker build -t stillhouse:0.1.0-cpu --target cpu .   # no GPU; with the demo's model and data
#
# BASE may be any image with Python 3.11, its venv module, glibc 2.28 or newer and apt.
ARG BASE=docker.io/library/python:3.11-slim-bookworm


FROM ${BASE} AS builder
ARG UV_VERSION=0.13.9
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/opt/stillhouse
RUN python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir "uv==${UV_VERSION}" \
    && /opt/uv/bin/uv venv --python 3.11 "${VIRTUAL_ENV}"
WORKDIR /src
COPY pyproject.toml ./
COPY requirements requirements


# The lock files serve as constraints: the tools of development that they list as well stay out of the image.
FROM builder AS builder-cpu
# Set to nothing, with UV_FIND_LINKS, where the CPU build of torch comes from a folder of wheels.
ARG TORCH_BACKEND=cpu
ARG UV_FIND_LINKS
RUN /opt/uv/bin/uv pip install ${TORCH_BACKEND:+--torch-backend "${TORCH_BACKEND}"} \
    --constraints requirements/cpu.txt --overrides requirements/overrides-cpu.txt \
    --requirements pyproject.toml --extra cpu --extra demo
COPY README.md LICENSE ./
COPY stillhouse stillhouse
COPY ray_jobs ray_jobs
COPY services services
RUN /opt/uv/bin/uv pip install --no-deps .


FROM builder AS builder-cuda
ARG UV_FIND_LINKS
RUN /opt/uv/bin/uv pip install \
    --constraints requirements/cuda.txt --overrides requirements/overrides-cuda.txt \
    --requirements pyproject.toml --extra cuda
COPY README.md LICENSE ./
COPY stillhouse stillhouse
COPY ray_jobs ray_jobs
COPY services services
RUN /opt/uv/bin/uv pip install --no-deps .


FROM ${BASE} AS runtime
ARG REVISION=unknown
LABEL org.opencontainers.image.title="stillhouse" \
      org.opencontainers.image.description="Distil a large language model into a small student, and serve it with a teacher to fall back on." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
# A fixed number, so that runAsNonRoot can be checked and volumes can be given to it; 1000 is taken in some bases.
RUN groupadd --gid 10001 stillhouse \
    && useradd --uid 10001 --gid 10001 --create-home --shell /bin/bash stillhouse \
    && echo "export PATH=/opt/stillhouse/bin:\$PATH" > /etc/profile.d/stillhouse.sh
ENV HOME=/home/stillhouse \
    PATH=/opt/stillhouse/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1 \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /home/stillhouse
ENTRYPOINT ["stillhouse"]
CMD ["--help"]


FROM runtime AS cpu
# vLLM's CPU kernels are linked to libnuma. Debian keeps no old versions that could be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=builder-cpu /opt/stillhouse /opt/stillhouse
USER 10001:10001


FROM runtime AS cuda
# The wheels bring CUDA, the node brings the driver. Triton compiles its launchers with a C compiler when a kernel is first used.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=builder-cuda /opt/stillhouse /opt/stillhouse
USER 10001:10001
