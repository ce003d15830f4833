# The Python packages of a stage family, which its stages' images have in common. images/build.py builds it.
#
# BASE_IMAGE must be Debian with Python 3.11 and its headers and venv module, as in the official images.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS install
# pycosat, which reasoning-gym needs, comes as source alone. The compiler stays behind in this stage.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
COPY requirements.txt wheels/ /build/
# Where pip looks, and where else, such as for PyTorch's CPU builds; empty: its default, and nowhere else.
ARG PIP_INDEX_URL=""
ARG PIP_EXTRA_INDEX_URL=""
# Every package stands in the file, so pip has nothing to resolve; kfp's own list is for its client.
RUN /opt/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --find-links /build \
        --requirement /build/requirements.txt
# The packages' own tests, and headers that nothing here compiles against.
RUN cd /opt/venv/lib/python3.11/site-packages \
    && find . -type d \( -name tests -o -path ./pyarrow/include \) -prune -exec rm -r {} +

FROM ${BASE_IMAGE}
COPY --from=install /opt/venv /opt/venv
# Triton, which comes with CUDA's torch, compiles C the first time that one of its kernels runs.
RUN if [ -d /opt/venv/lib/python3.11/site-packages/triton ]; then \
        apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -r /var/lib/apt/lists/*; fi
# Clusters and the local runner may choose the user: any can write to HOME, and libraries that ask for a name get one.
RUN mkdir --mode=1777 /home/rloop
ENV PATH=/opt/venv/bin:$PATH HOME=/home/rloop USER=rloop PYTHONPATH=/app PYTHONUNBUFFERED=1
WORKDIR /home/rloop
USER 10001:10001
