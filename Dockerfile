# Two images from one file: --target sidecar, --target central. Neither holds the other's code or
# packages; the sidecar's has no database driver.
ARG PYTHON_IMAGE=python:3.13-slim


FROM ${PYTHON_IMAGE} AS sidecar-build
COPY requirements/sidecar.txt /tmp/requirements.txt
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python --no-cache-dir install \
        --no-deps --only-binary :all: --require-hashes -r /tmp/requirements.txt
COPY kit /app/kit
COPY sidecar /app/sidecar
# Compiled here, because the root file system is read-only where it runs.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${PYTHON_IMAGE} AS central-build
COPY requirements/central.txt /tmp/requirements.txt
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python --no-cache-dir install \
        --no-deps --only-binary :all: --require-hashes -r /tmp/requirements.txt
COPY kit /app/kit
COPY central /app/central
RUN python -m compileall -q --invalidation-mode unchecked-hash /app


FROM ${PYTHON_IMAGE} AS sidecar
COPY --from=sidecar-build /opt/venv /opt/venv
COPY --from=sidecar-build /app /app
# The spool: mount a volume here that the user below may write to (fsGroup in Kubernetes).
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/sidecar
WORKDIR /app
USER 65532:65532
EXPOSE 7071
ENTRYPOINT ["/opt/venv/bin/python", "-m", "sidecar"]
CMD ["serve"]

FROM ${PYTHON_IMAGE} AS central
COPY --from=central-build /opt/venv /opt/venv
COPY --from=central-build /app /app
WORKDIR /app
USER 65532:65532
EXPOSE 7080 7081
ENTRYPOINT ["/opt/venv/bin/python", "-m", "central"]
CMD ["serve"]
