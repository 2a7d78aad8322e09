"""Small programs in place of the stack's own: `migrate`, `worker`, `http`, `farewell` and ones that fail."""

import http.server
import os
import signal
import sys
import threading
from pathlib import Path

import psycopg

STATE = Path(os.environ["DOGWATCH_STATE_DIR"])


def connect() -> psycopg.Connection:
    """A connection to the stack's database."""
    return psycopg.connect(os.environ["DOGWATCH_DATABASE_URL"].replace("+psycopg", ""), autocommit=True)


def note(verb: str) -> None:
    """Leave a row that says this program ran: a table that every run adds to."""
    with connect() as connection:
        connection.execute("create table if not exists ran (id bigint generated always as identity, verb text)")
        connection.execute("insert into ran (verb) values (%s)", [verb])


def work() -> None:
    """Stay until asked to stop, as a worker does, and say when ready."""
    note("worker")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    Path(os.environ["DOGWATCH_READY_FILE"]).touch()
    stop.wait()


def serve() -> None:
    """Answer the health check, and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/v1/health" else 404)
            self.end_headers()

    http.server.HTTPServer(("127.0.0.1", int(os.environ["DOGWATCH_HTTP_PORT"])), Handler).serve_forever()


def fail() -> None:
    """End at once with an error, as a misconfigured program does."""
    sys.exit("the stand-in fails as asked")


VERBS = {"migrate": lambda: note("migrate"), "farewell": lambda: note("farewell"), "worker": work, "http": serve}

if __name__ == "__main__":
    VERBS.get(sys.argv[1], fail)()
