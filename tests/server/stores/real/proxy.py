"""A TCP proxy in front of a real server, which can go down, or cut a connection after some bytes."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Proxy:
    """Forwards bytes to a server on this machine.

    Attributes:
        port: The port that it listens on.
        target: The port of the server.
        is_down: Whether connections are closed as soon as they are made.
        cut_after: The number of bytes of answers after which all connections are closed and `is_down` is set; None
            means never.
        passed: The number of bytes of answers that were forwarded.
    """

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.target = 0
        self.is_down = False
        self.cut_after: int | None = None
        self.passed = 0
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the proxy."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        self._close_all()

    def go_down(self) -> None:
        """Makes the server unreachable."""
        self.is_down = True
        self._close_all()

    def come_up(self) -> None:
        """Makes the server reachable again, without cutting connections."""
        self.cut_after, self.is_down = None, False

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                try:
                    self._connect(client)
                except OSError:  # the server does not listen yet, or no longer
                    client.close()

    def _connect(self, client: socket.socket) -> None:
        """Forwards the bytes of a new connection, both ways; closes it if the server is unreachable."""
        if self.is_down:
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", self.target))
        with self._lock:
            self._open += [client, server]
        for source, sink, counts in ((client, server, False), (server, client, True)):
            threading.Thread(target=self._pass_on, args=(source, sink, counts), daemon=True).start()
        if self.is_down:  # it went down in between
            self._close_all()

    def _pass_on(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                if counts:
                    self.passed += len(data)
                    if self.cut_after is not None and self.passed > self.cut_after:
                        self.go_down()
                        return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _close_all(self) -> None:
        with self._lock:
            closing, self._open = self._open, []
        for each in closing:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def proxied() -> Iterator[Proxy]:
    """A proxy until the end of the block; its maker sets the target."""
    proxy = Proxy()
    try:
        yield proxy
    finally:
        proxy.close()
