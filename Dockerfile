# Factscope as an ordinary user; models and runs live in the volume that is mounted at /data.
#
# PyTorch is the index's usual build; --build-arg PIP_EXTRA_INDEX_URL=... names an index with builds for a CPU alone, which
# are gigabytes smaller.
#
#     docker build -t factscope .
#     docker run --rm -v "$PWD/work:/data" --user "$(id -u):$(id -g)" factscope trace "The Eiffel Tower is located in the city of"
FROM python:3.11-slim

ARG PIP_EXTRA_INDEX_URL

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HOME=/data
WORKDIR /opt/factscope

# The libraries first, in a layer of their own: it is made again only when what is depended on changes.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY factscope/__init__.py factscope/
RUN pip install -c constraints.txt .

COPY factscope factscope
COPY tracing tracing
COPY circuits circuits
COPY editing editing
COPY studies studies
RUN pip install --no-deps --force-reinstall . \
    && useradd --create-home --home-dir /data --uid 1000 factscope

USER factscope
WORKDIR /data
CMD ["factscope", "--help"]
