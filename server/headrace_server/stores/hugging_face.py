"""`hf://`: a repository of the Hugging Face hub, or of a server that speaks its API."""

import os
import re
from collections.abc import Iterator
from urllib.parse import quote

from headrace_server.stores.base import Listing, RemoteFile, StoreError
from headrace_server.stores.web import Web, bearer

ENDPOINT = "https://huggingface.co"

_URI = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<below>.*))?")
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')


class HuggingFaceStore:
    """A repository at a revision, and the folder in it that is the model.

    Args:
        uri: `hf://owner/name@revision/folder`; without a revision, `main`; without a folder, the whole repository.

    Raises:
        StoreError: The URI is invalid.
    """

    def __init__(self, uri: str) -> None:
        found = _URI.fullmatch(uri)
        if found is None:
            raise StoreError(f"{uri} must be hf://OWNER/NAME, hf://OWNER/NAME@REVISION or one of these with /FOLDER")
        self._repository, self._revision = found["repo"], found["revision"] or "main"
        self._below = (found["below"] or "").strip("/")
        self._endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")
        self._web = Web(uri, self._endpoint, bearer("HF_TOKEN"))

    def list(self) -> Listing:
        """The files at the revision's commit."""
        commit = self._web.document(self._api(f"revision/{quote(self._revision, safe='')}"))["sha"]
        url = self._api(f"tree/{commit}/{quote(self._below)}".rstrip("/")) + "?recursive=true"
        files: list[RemoteFile] = []
        while url:
            entries, headers = self._web.document_of(url)
            files.extend(self._file(entry, commit) for entry in entries if entry["type"] == "file")
            following = _NEXT.search(headers.get("Link", ""))
            url = following[1] if following else ""
        return Listing(files)

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The file's bytes, beginning at an offset."""
        return self._web.read(file.key, offset, size=file.size)

    def _api(self, rest: str) -> str:
        return f"{self._endpoint}/api/models/{self._repository}/{rest}"

    def _file(self, entry: dict[str, object], commit: str) -> RemoteFile:
        path = str(entry["path"])
        lfs = entry.get("lfs")
        sha256 = str(lfs["oid"]) if isinstance(lfs, dict) else ""
        url = f"{self._endpoint}/{self._repository}/resolve/{commit}/{quote(path)}"
        below = path.removeprefix(f"{self._below}/") if self._below else path
        return RemoteFile(below, int(str(entry["size"])), str(entry["oid"]), sha256, key=url)
