"""The server: connections that end with it, and the Messages API, probes and controls on them."""

import json
import select
import socket
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from dogwatch.testing.model.fields import Fields, ScriptError
from dogwatch.testing.model.journal import Entry, describe, entry_of
from dogwatch.testing.model.parse import parse_script
from dogwatch.testing.model.play import Play, RefusedError
from dogwatch.testing.model.prompt import Prompt, read_prompt
from dogwatch.testing.model.reply import error_of, events_of, frame, message_of, new_id
from dogwatch.testing.model.script import Failure, Script, Step


class ModelServer(ThreadingMixIn, TCPServer):
    """One thread per connection, all of them joined by `server_close`; OSError if the port is taken."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], script: Script, log: Path | None) -> None:
        self._connections: set[socket.socket] = set()
        self._log = log
        self.play = Play(script, log)
        super().__init__(address, Handler)

    def load(self, script: Script) -> None:
        """Play another script from its beginning; replies still held back end as API errors."""
        ended, self.play = self.play, Play(script, self._log)
        ended.gate.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, so that closing the server ends it."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that ends."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what goes wrong in a handler, except that a killed CLI resets its connections."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        """End all waits and connections, then join their threads."""
        self.play.gate.close()
        for connection in tuple(self._connections):
            with suppress(OSError):  # it may be ending by itself
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class Handler(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ModelServer

    def log_message(self, format: str, *args: object) -> None:
        """The journal records requests; nothing goes to stderr."""

    def do_HEAD(self) -> None:
        """Answer the start-up probe of the CLI."""
        self._other()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """Answer the control endpoints; there is nothing else to get."""
        play = self.server.play
        if self.path == "/__log":
            self._json(200, play.journal.entries())
        elif self.path == "/__stats":
            self._json(200, play.stats())
        else:
            self._other()
            self._json(404, error_of(Failure.of(404, f"no such path: {self.path}"), new_id("req")))

    def do_POST(self) -> None:
        """Answer a request for a reply, a control endpoint, or the CLI's telemetry."""
        if self.headers.get("transfer-encoding"):
            self.close_connection = True  # what follows is the body nobody read
            return self._json(411, error_of(Failure.of(411, "send a content-length"), new_id("req")))
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            body = json.loads(raw or b"{}")
            if not isinstance(body, dict):
                raise ValueError("expected a JSON object")
            if self.path.startswith("/__"):
                return self._control(body)
        except ValueError as error:
            return self._json(400, error_of(Failure.of(400, str(error)), new_id("req")))
        if self.path.startswith("/v1/messages/count_tokens"):
            self._other()
            return self._json(200, {"input_tokens": max(1, len(raw) // 4)})
        if self.path.startswith("/v1/messages"):
            return self._reply(body)
        self._other()
        return self._json(200, {})

    def _control(self, body: dict[str, Any]) -> None:
        if self.path == "/__script":
            self.server.load(parse_script(body))
            return self._json(200, {"ok": True})
        if self.path == "/__release":
            fields = Fields(body, "release")
            name = fields.take("name", str)
            fields.close()
            if name is None:
                raise ScriptError("release: needs 'name'")
            return self._json(200, {"ok": True, "waited": self.server.play.gate.release(name)})
        return self._json(404, error_of(Failure.of(404, f"no such control: {self.path}"), new_id("req")))

    def _other(self) -> None:
        """Record a request that asks for no reply of the model."""
        play, entry = self.server.play, self._entry()
        play.journal.open(entry)
        play.journal.settle(entry, "other", 0)

    def _entry(self) -> Entry:
        return entry_of(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})

    def _reply(self, body: dict[str, Any]) -> None:
        play, entry = self.server.play, self._entry()
        problem = _malformed(body)
        if problem:
            play.journal.open(entry)
            return self._refuse(play, entry, Failure.of(400, problem))
        prompt = read_prompt(body, entry["headers"])
        entry.update(describe(prompt))
        play.journal.open(entry)
        try:
            step = play.step(prompt)
            play.hold(step, self._gone)
            if step.failure:
                raise RefusedError(step.failure)
            self._perform(play, entry, step, prompt)
        except RefusedError as refused:
            self._refuse(play, entry, refused.failure)
        except ConnectionError:
            play.journal.settle(entry, "disconnected", 0)
            self.close_connection = True

    def _perform(self, play: Play, entry: Entry, step: Step, prompt: Prompt) -> None:
        if step.raw is not None:
            play.journal.settle(entry, "raw", 200)
            return self._body(200, step.content_type, step.raw.encode(), {})
        message = message_of(step, prompt.model)
        if prompt.stream:
            return self._stream(play, entry, step, message)
        play.journal.settle(entry, "answered", 200)
        return self._json(200, message)

    def _refuse(self, play: Play, entry: Entry, failure: Failure) -> None:
        play.journal.settle(entry, "error", failure.status)
        self._json(failure.status, error_of(failure, new_id("req")), failure.headers)

    def _stream(self, play: Play, entry: Entry, step: Step, message: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("cache-control", "no-cache")
        self.send_header("transfer-encoding", "chunked")
        self.send_header("request-id", new_id("req"))
        self.end_headers()
        for event in events_of(message, step.chunk):
            if event[0] == "message_delta" and step.stall:
                play.journal.settle(entry, "cut", 200)
                play.gate.pause(step.stall)
                return self._cut()
            if event[0] == "message_stop":
                # Settled before it is sent: whoever has seen the end of the reply also finds it in the statistics.
                play.journal.settle(entry, "answered", 200)
            data = frame(event)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            if event[0] == "content_block_stop" and step.drop:
                play.journal.settle(entry, "cut", 200)
                return self._cut()
            play.gate.pause(step.chunk_delay)
        self.wfile.write(b"0\r\n\r\n")
        return None

    def _cut(self) -> None:
        """End the connection in the middle of the body: without its last chunk the client knows it as broken."""
        self.close_connection = True
        with suppress(OSError):  # the client may have gone first
            self.connection.shutdown(socket.SHUT_RDWR)

    def _gone(self) -> bool:
        """Whether the client has closed the connection."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _json(self, status: int, value: object, headers: Any = None) -> None:
        self._body(status, "application/json", json.dumps(value).encode(), {"request-id": new_id("req"), **(headers or {})})

    def _body(self, status: int, content_type: str, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _malformed(body: dict[str, Any]) -> str | None:
    messages = body.get("messages")
    if not isinstance(body.get("model"), str):
        return "model: Field required"
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return "messages: Input should be a list of objects"
    return None if messages else "messages: at least one message is required"
