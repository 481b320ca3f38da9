# CPU image:
#   docker build -t cloudmask .
#   docker run --user "$(id -u):$(id -g)" -v "$PWD:/data" cloudmask segment scene.tif mask.tif
FROM debian:bookworm-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN python3 -m venv /opt/cloudmask \
    && /opt/cloudmask/bin/pip install --no-cache-dir -c /src/constraints.txt "/src[s3]"

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home cloudmask
COPY --from=build /opt/cloudmask /opt/cloudmask
ENV PATH="/opt/cloudmask/bin:$PATH" KERAS_HOME=/tmp/keras
USER cloudmask
WORKDIR /data
ENTRYPOINT ["cloudmask"]
