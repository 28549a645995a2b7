"""`models:/`: a model of an MLflow registry, by alias or by version, through its REST API."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote, urlencode

from headrace_server.stores.base import Listing, RemoteFile, Store, StoreError
from headrace_server.stores.object_store import ObjectStore
from headrace_server.stores.uris import OBJECT_STORES
from headrace_server.stores.web import Web, bearer

TRACKING = "MLFLOW_TRACKING_URI"

_URI = re.compile(r"models:/+(?P<name>[^/@]+)(?:@(?P<alias>[^/]+)|/(?P<version>[0-9]+))")


class MlflowStore:
    """A registered model's version, with the number that it has in the registry.

    Args:
        uri: `models:/name@alias` or `models:/name/7`.

    Raises:
        StoreError: The URI is invalid, or MLFLOW_TRACKING_URI is not set.
    """

    def __init__(self, uri: str) -> None:
        found = _URI.fullmatch(uri)
        if found is None:
            raise StoreError(f"{uri} must be models:/NAME@ALIAS or models:/NAME/VERSION")
        server = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get(TRACKING, "")
        if not server.startswith(("http://", "https://")):
            raise StoreError(f"{uri}: {TRACKING} must be the URL of an MLflow server; was '{server}'")
        self._uri, self._server = uri, server.rstrip("/")
        self._name, self._alias, self._version = found["name"], found["alias"], found["version"]
        self._web = Web(uri, self._server, bearer("MLFLOW_TRACKING_TOKEN"))
        self._objects: dict[str, Store] = {}

    def list(self) -> Listing:
        """The artifacts of the version to which the alias points now."""
        version = self._version or self._named()
        source = self._registry("model-versions/get-download-uri", name=self._name, version=version)["artifact_uri"]
        return Listing(list(self._files(str(source))), int(version))

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The bytes of an artifact from an offset on."""
        for location, store in self._objects.items():
            if file.key.startswith(f"{location}\0"):
                return store.read(replace(file, key=file.key.partition("\0")[2]), offset)
        return self._web.read(file.key, offset, size=file.size)

    def _named(self) -> str:
        version = self._registry("registered-models/alias", name=self._name, alias=self._alias)["model_version"]
        assert isinstance(version, dict)
        return str(version["version"])

    def _registry(self, path: str, **query: str) -> dict[str, object]:
        answer: dict[str, object] = self._web.document(f"{self._server}/api/2.0/mlflow/{path}?{urlencode(query)}")
        return answer

    def _files(self, source: str) -> Iterator[RemoteFile]:
        scheme = source.partition("://")[0]
        if scheme in OBJECT_STORES:
            store = self._objects.setdefault(source, ObjectStore(source))
            for file in store.list().files:
                yield replace(file, key=f"{source}\0{file.key}")
            return
        if not source.startswith("mlflow-artifacts:"):
            raise StoreError(f"{self._uri}: its artifacts are at {source}, which only MLflow itself can read")
        path = source.partition(":")[2].removeprefix("//").partition("/")[2]
        yield from self._artifacts(path.strip("/"), "")

    def _artifacts(self, root: str, below: str) -> Iterator[RemoteFile]:
        base = f"{self._server}/api/2.0/mlflow-artifacts/artifacts"
        found = self._web.document(f"{base}?{urlencode({'path': '/'.join(filter(None, (root, below)))})}")
        for entry in found.get("files", ()):
            path = "/".join(filter(None, (below, str(entry["path"]))))
            if entry.get("is_dir"):
                yield from self._artifacts(root, path)
                continue
            size, url = int(entry.get("file_size") or -1), f"{base}/{quote(f'{root}/{path}')}"
            yield RemoteFile(path, size, f"{root}/{path}:{size}", key=url)
