"""Carries connections from a sandbox to the one host and port it may reach, as bytes it does not look into."""

import os
import socket
import threading
from contextlib import suppress
from typing import Final, NoReturn

from dogwatch.sandbox.local.identity import Process
from dogwatch.sandbox.local.namespaces import join_network

CONNECTIONS: Final = 64
"""Most connections of one sandbox at a time; more wait in the socket's queue."""
_CONNECT_S: Final = 20.0
_CHUNK: Final = 1 << 16


def listen_inside(first: Process, port: int) -> socket.socket:
    """A socket that listens on 127.0.0.1 in the network of a sandbox and is ours: nothing of it is to be seen inside. Raises OSError."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = os.fork()
        if child == 0:
            _send_listener(first, port, theirs)
        theirs.close()
        message, handles, _, _ = socket.recv_fds(ours, 1024, 1)
        os.waitpid(child, 0)
    if not handles:
        raise OSError(f"cannot listen on port {port} in the sandbox: {message.decode()}")
    return socket.socket(fileno=handles[0])


def _send_listener(first: Process, port: int, channel: socket.socket) -> NoReturn:
    """In a child, since no process comes back out of a user namespace."""
    try:
        join_network(first)
        listener = socket.create_server(("127.0.0.1", port), backlog=128)
        socket.send_fds(channel, [b"ok"], [listener.fileno()])
    except OSError as error:
        channel.send(str(error).encode())
    finally:
        os._exit(0)


class Relay:
    """One listening socket inside a sandbox and where its connections go. Names are looked up here, outside, for every connection."""

    def __init__(self, listener: socket.socket, host: str, port: int) -> None:
        self._listener = listener
        self._target = (host, port)
        self._free = threading.BoundedSemaphore(CONNECTIONS)

    def start(self) -> None:
        """Accept in the background until the process ends."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            self._free.acquire()
            try:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(connection,), daemon=True).start()
            except (OSError, RuntimeError):  # a reset before we looked, or no thread to be had: the sandbox tries again
                self._free.release()

    def _carry(self, inside: socket.socket) -> None:
        try:
            with inside, suppress(OSError), socket.create_connection(self._target, timeout=_CONNECT_S) as outside:
                outside.settimeout(None)
                for end in (inside, outside):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(target=_copy, args=(outside, inside), daemon=True)
                back.start()
                _copy(inside, outside)
                back.join()
        finally:
            self._free.release()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until the end of one direction and pass that end on; the other direction may go on."""
    try:
        while data := source.recv(_CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
