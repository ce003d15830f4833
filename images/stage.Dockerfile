# The image of one stage: its code and the shared code on top of its family's packages. Built by images/build.py.
ARG PACKAGES_IMAGE
FROM ${PACKAGES_IMAGE}
ARG STAGE
ARG TAG
LABEL org.opencontainers.image.title="rloop ${STAGE}" \
      org.opencontainers.image.description="A stage of RLoop post-training on Kubeflow Pipelines" \
      org.opencontainers.image.version="${TAG}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY components /app/components
# The tiny base policies, for the stages that read them: recipes' relative paths start in the working directory.
COPY recipes recipes
USER 10001:10001
