"""`https://` archives: one packed file that is a model, or a base path of versions."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from headrace_server.stores.base import Listing, RemoteFile, StoreError
from headrace_server.stores.unpacking import is_archive
from headrace_server.stores.web import Web, bearer

TOKEN = "HEADRACE_HTTP_TOKEN"


class ArchiveStore:
    """An archive, or one model file, at a URL.

    Args:
        uri: `https://host/model.tar.gz`, or `.onnx`; `http://` as well.

    Raises:
        StoreError: The URI contains a password.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        if "@" in urlsplit(uri).netloc:
            raise StoreError(f"{uri} must not contain a password; a token is taken from {TOKEN}")
        self._web = Web(uri, uri, bearer(TOKEN))
        self._name = urlsplit(uri).path.rpartition("/")[2] or "model"

    def list(self) -> Listing:
        """Lists the one file, identified by its ETag or its modification time.

        Raises:
            StoreError: The server cannot be reached, or returns an error.
        """
        headers = self._web.head(self._uri)
        tag = headers.get("ETag") or headers.get("Last-Modified") or ""
        if not tag:
            raise StoreError(f"{self._uri}: without an ETag or a Last-Modified header, changes cannot be detected")
        size = int(headers.get("Content-Length") or -1)
        return Listing([RemoteFile(self._name, size, tag, unpack=is_archive(self._name), key=self._uri)])

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The file's bytes, beginning at an offset."""
        return self._web.read(file.key, offset, file.tag, file.size)
