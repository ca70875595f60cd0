# Two images from one file: `--target gateway` answers HTTP and delivers webhooks without torch,
# `--target worker` holds the model. Both run as an unprivileged user and need no writable root.
#   docker build --target gateway -t darkroom-gateway .
#   docker build --target worker  -t darkroom-worker  .

FROM python:3.12-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    VIRTUAL_ENV=/opt/darkroom \
    PATH=/opt/darkroom/bin:$PATH
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin darkroom \
    && python -m venv /opt/darkroom
WORKDIR /srv/darkroom

FROM base AS gateway-build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY worker worker
RUN pip install -c constraints.txt '.[otel]'

FROM base AS worker-build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY worker worker
# The CUDA build of torch, as the registry has it; torch brings its own CUDA libraries.
RUN pip install -c constraints.txt '.[worker,otel]'

FROM base AS gateway
COPY --from=gateway-build /opt/darkroom /opt/darkroom
USER 10001:10001
ENV DARKROOM_HOST=0.0.0.0 \
    DARKROOM_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['DARKROOM_PORT'] + '/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["darkroom"]
CMD ["gateway"]

FROM base AS worker
COPY --from=worker-build /opt/darkroom /opt/darkroom
COPY models/starter /srv/darkroom/models/starter
COPY models/starter-scorer /srv/darkroom/models/starter-scorer
# Put together from itself and the two above at a worker's start, below $HOME.
COPY models/starter-unclip /srv/darkroom/models/starter-unclip
# A named volume takes over the owner of the folder that it is mounted on.
RUN install -d -o 10001 -g 10001 /var/lib/darkroom/profiles
USER 10001:10001
# Models come from folders only; nothing is fetched while serving.
ENV DARKROOM_MODEL=/srv/darkroom/models/starter \
    DARKROOM_SCORER=/srv/darkroom/models/starter-scorer \
    DARKROOM_PROFILE_FOLDER=/var/lib/darkroom/profiles \
    HF_HUB_OFFLINE=1 \
    HOME=/tmp
STOPSIGNAL SIGTERM
ENTRYPOINT ["darkroom"]
CMD ["worker"]
