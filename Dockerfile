# Two images from one file: --target sidecar, --target central. Neither holds the other's code or
# packages; the sidecar's has no database driver.
ARG PYTHON_IMAGE=python:3.13-slim


FROM ${PYTHON_IMAGE} AS sidecar-build
COPY requirements/sidecar.txt /tmp/requirements.txt
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python --no-cache-dir install \
        --no-deps --only-binary :all: --require-hashes -r /tmp/requirements.txt
# `sidecar` on the PATH, from any directory: what `kubectl exec` runs.
RUN echo /app > "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/image.pth" \
    && printf '#!/opt/venv/bin/python\nimport sys\nfrom sidecar.__main__ import main\nsys.exit(main())\n' \
        > /opt/venv/bin/sidecar \
    && chmod 0755 /opt/venv/bin/sidecar
COPY kit /app/kit
COPY sidecar /app/sidecar
# Compiled here, because the root file system is read-only where it runs.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${PYTHON_IMAGE} AS central-build
COPY requirements/central.txt /tmp/requirements.txt
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python --no-cache-dir install \
        --no-deps --only-binary :all: --require-hashes -r /tmp/requirements.txt
# `central` on the PATH, from any directory: what `kubectl exec` runs.
RUN echo /app > "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/image.pth" \
    && printf '#!/opt/venv/bin/python\nimport sys\nfrom central.__main__ import main\nsys.exit(main())\n' \
        > /opt/venv/bin/central \
    && chmod 0755 /opt/venv/bin/central
COPY kit /app/kit
COPY central /app/central
RUN python -m compileall -q --invalidation-mode unchecked-hash /app


FROM ${PYTHON_IMAGE} AS sidecar
COPY --from=sidecar-build /opt/venv /opt/venv
COPY --from=sidecar-build /app /app
ENV PATH=/opt/venv/bin:$PATH
# The spool: mount a volume here that the user below may write to (fsGroup in Kubernetes).
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/sidecar
WORKDIR /app
USER 65532:65532
EXPOSE 7071
ENTRYPOINT ["sidecar"]
CMD ["serve"]

FROM ${PYTHON_IMAGE} AS central
COPY --from=central-build /opt/venv /opt/venv
COPY --from=central-build /app /app
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /app
USER 65532:65532
EXPOSE 7080 7081
ENTRYPOINT ["central"]
CMD ["serve"]
