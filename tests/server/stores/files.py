"""A server of files over HTTP, with ranges, ETags and the part of S3 that a reader needs, which can fail."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Files:
    """The server's content and behaviour.

    Attributes:
        content: Bytes by path, which begins with a slash.
        headers: Additional headers by path.
        cut: By path, the number of bytes after which the next answer, and only that one, is cut off.
        refuse: The status of the answer to every request; 0 for the normal one.
        token: The token that each request must have; empty if none is needed.
        asked: The requests: method, path and range of each.
        tokens: The Authorization header of each request.
        redirect: Redirections by path.
        no_ranges: Whether every range is refused.
        modified: The modification time of all objects.
    """

    content: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    refuse: int = 0
    token: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    redirect: dict[str, str] = field(default_factory=dict)
    no_ranges: bool = False
    modified: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tag(self, path: str) -> str:
        return f'"{hashlib.md5(self.content[path]).hexdigest()}"'


@contextmanager
def serving_files() -> Iterator[Files]:
    files = Files()

    class Answers(_Answers):
        own = files

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    files.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, name="files")
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Answers(BaseHTTPRequestHandler):
    own: Files
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Logs nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        files, split = self.own, urlsplit(self.path)
        files.asked.append((self.command, self.path, self.headers.get("Range", "")))
        files.tokens.append(self.headers.get("Authorization", ""))
        path = unquote(split.path)
        if files.refuse:
            self._send(files.refuse, b"", {})
        elif files.token and self.headers.get("Authorization") != files.token:
            self._send(401, b"", {"WWW-Authenticate": files.headers.get("challenge", {}).get("value", "Basic")})
        elif path in files.redirect:
            self._send(302, b"", {"Location": files.redirect[path]})
        elif "list-type" in parse_qs(split.query):
            self._send(200, self._listing(path, parse_qs(split.query).get("prefix", [""])[0]), {})
        elif self.path in files.content or path in files.content:
            self._file(self.path if self.path in files.content else path, body=body)
        else:
            self._send(404, b"", {})

    def _file(self, path: str, *, body: bool) -> None:
        files, data = self.own, self.own.content[path]
        if (wanted := self.headers.get("If-Match")) and wanted != files.tag(path):
            return self._send(412, b"", {})
        headers = {"ETag": files.tag(path), "Last-Modified": _date(files.modified), **files.headers.get(path, {})}
        status, begin = 200, 0
        asked = self.headers.get("Range")
        if asked and files.no_ranges:
            return self._send(416, b"", {})
        if asked:
            begin, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        return self._send(status, data[begin:], headers, cut=files.cut.pop(path, None) if body else None, body=body)

    def _listing(self, bucket: str, prefix: str) -> bytes:
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{self.own.modified.isoformat()}</LastModified>"
            f"<ETag>{escape(self.own.tag(path))}</ETag><Size>{len(data)}</Size></Contents>"
            for path, data in sorted(self.own.content.items())
            if (key := path.removeprefix(f"{bucket.rstrip('/')}/")).startswith(prefix) and key != path
        )
        return f"<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], *, cut: int | None = None, body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self.close_connection = True


def _date(when: datetime) -> str:
    return when.strftime("%a, %d %b %Y %H:%M:%S GMT")
