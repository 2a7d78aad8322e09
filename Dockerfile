# One image for every process of dogwatch: `docker run … dogwatch run | http | migrate | schedules`.

FROM python:3.11.15-slim-bookworm AS build
WORKDIR /build
COPY requirements-uv.lock ./
RUN python -m pip install --no-cache-dir --root-user-action=ignore --require-hashes --only-binary :all: -r requirements-uv.lock
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 VIRTUAL_ENV=/opt/dogwatch
# The lock as a constraint: exactly its versions, each file checked against its hash, and only what these extras need.
# claude-agent-sdk brings the agent's CLI, for local sandboxes.
COPY requirements.lock pyproject.toml ./
RUN uv venv --python /usr/local/bin/python /opt/dogwatch \
 && uv pip install --no-build --constraints requirements.lock claude-agent-sdk \
      -r pyproject.toml --extra worker --extra http --extra cli
COPY README.md LICENSE ./
COPY dogwatch dogwatch
RUN uv build --wheel --build-constraints requirements.lock --require-hashes --out-dir wheel \
 && uv pip install --no-deps wheel/*.whl

FROM python:3.11.15-slim-bookworm
# bubblewrap isolates local sandboxes where the container may make user namespaces; Modal needs neither it nor git.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bubblewrap ca-certificates git \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --shell /usr/sbin/nologin dogwatch \
 && install --directory --owner dogwatch --group dogwatch --mode 0700 /var/lib/dogwatch
COPY --from=build /opt/dogwatch /opt/dogwatch
WORKDIR /app
# The workshops, which are in no wheel, and where alembic is configured.
COPY pyproject.toml ./
COPY workflows workflows
COPY activities activities
COPY worker worker
COPY migrations migrations
ENV PATH=/opt/dogwatch/bin:$PATH PYTHONDONTWRITEBYTECODE=1 DOGWATCH_STATE_DIR=/var/lib/dogwatch
USER dogwatch
VOLUME /var/lib/dogwatch
ENTRYPOINT ["python", "-m", "worker"]
CMD ["run"]
