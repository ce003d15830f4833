# The Python packages of a stage family, shared by its stages' images. Built by images/build.py.
#
# BASE_IMAGE must be Debian with Python 3.11 and its headers and venv module, as in the official images.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS install
# reasoning-gym needs pycosat, which is only available as source. The compiler stays in this build stage.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
COPY requirements.txt wheels/ /build/
# pip's package index, and an extra one, such as for PyTorch's CPU builds; empty: the default index only.
ARG PIP_INDEX_URL=""
ARG PIP_EXTRA_INDEX_URL=""
# The file lists every package, so pip has nothing to resolve; most of kfp's dependencies are for its client.
RUN /opt/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --find-links /build \
        --requirement /build/requirements.txt
# Remove the packages' own tests, and headers that nothing compiles against.
RUN cd /opt/venv/lib/python3.11/site-packages \
    && find . -type d \( -name tests -o -path ./pyarrow/include \) -prune -exec rm -r {} +

FROM ${BASE_IMAGE}
COPY --from=install /opt/venv /opt/venv
# Triton, which comes with the CUDA build of torch, compiles C code the first time one of its kernels runs.
RUN if [ -d /opt/venv/lib/python3.11/site-packages/triton ]; then \
        apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -r /var/lib/apt/lists/*; fi
# Clusters and the local runner may choose the user: any user can write to HOME and has a name in USER.
RUN mkdir --mode=1777 /home/rloop
ENV PATH=/opt/venv/bin:$PATH HOME=/home/rloop USER=rloop PYTHONPATH=/app PYTHONUNBUFFERED=1
WORKDIR /home/rloop
USER 10001:10001
