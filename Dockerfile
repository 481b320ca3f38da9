# CPU image:
#   docker build -t cloudmask .
#   docker run --user "$(id -u):$(id -g)" -v "$PWD:/data" cloudmask segment scene.tif mask.tif
FROM debian:bookworm-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
# What cloudmask needs is a layer of its own, which stays while only cloudmask changes.
COPY pyproject.toml constraints.txt /src/
RUN python3 -m venv /opt/cloudmask \
    && /opt/cloudmask/bin/python -c "import tomllib; \
        project = tomllib.load(open('/src/pyproject.toml', 'rb'))['project']; \
        print(*project['dependencies'], *project['optional-dependencies']['s3'], sep='\n')" \
        > /tmp/needed.txt \
    && /opt/cloudmask/bin/pip install --no-cache-dir -c /src/constraints.txt -r /tmp/needed.txt
# dask-kubernetes asks for these names, which distributed no longer has.
RUN for role in scheduler worker; do \
        printf '#!/bin/sh\nexec dask %s "$@"\n' "$role" > "/opt/cloudmask/bin/dask-$role" \
        && chmod +x "/opt/cloudmask/bin/dask-$role"; \
    done
COPY . /src
RUN /opt/cloudmask/bin/pip install --no-cache-dir --no-deps /src

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home cloudmask
COPY --from=build /opt/cloudmask /opt/cloudmask
ENV PATH="/opt/cloudmask/bin:$PATH" KERAS_HOME=/tmp/keras MPLCONFIGDIR=/tmp/matplotlib
USER cloudmask
WORKDIR /data
ENTRYPOINT ["cloudmask"]
