"""`oci://`: an artifact of an OCI registry, whose layers are the files of a model, or archives of such files."""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from headrace_server.config.security import LOOPBACK
from headrace_server.stores.base import Listing, RemoteFile, StoreError
from headrace_server.stores.unpacking import is_archive
from headrace_server.stores.web import Unauthorized, Web

_URI = re.compile(
    r"oci://(?P<registry>[^/]+)/(?P<repo>[^@:]+)(?::(?P<tag>[^@/:]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.oci.image.index.v1+json"
)
TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"
LOCAL = ("localhost", "127.0.0.1", "[::1]")


class OciStore:
    """A version of a model in a registry: a tag or a digest in one of its repositories.

    Args:
        uri: `oci://host/repository:tag` or `oci://host/repository@sha256:...`. Hosts on this machine are contacted
            without TLS.

    Raises:
        StoreError: The URI is invalid.
    """

    def __init__(self, uri: str) -> None:
        found = _URI.fullmatch(uri)
        if found is None:
            raise StoreError(f"{uri} must be oci://HOST/REPOSITORY:TAG or oci://HOST/REPOSITORY@sha256:DIGEST")
        self._uri, self._host, self._repository = uri, found["registry"], found["repo"]
        self._reference = found["digest"] or found["tag"] or "latest"
        scheme = "http" if self._host.rpartition(":")[0] in LOCAL or self._host in LOCAL else "https"
        self._base = f"{scheme}://{self._host}/v2/{self._repository}"
        self._web = Web(uri, self._base)
        self._credentials = _credentials(self._host)

    def list(self) -> Listing:
        """The layers of the manifest."""
        manifest = self._manifest(self._reference)
        for child in manifest.get("manifests", ())[:1]:  # the first manifest of an index
            manifest = self._manifest(str(child["digest"]))
        layers = manifest.get("layers", ())
        return Listing([self._layer(layer, number) for number, layer in enumerate(layers)])

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The bytes of a layer, beginning at an offset."""
        return self._web.read(file.key, offset, size=file.size)

    def _manifest(self, reference: str) -> dict[str, Any]:
        url, headers = f"{self._base}/manifests/{reference}", {"Accept": _MANIFESTS}
        try:
            content, _ = self._web.content_of(url, headers)
        except Unauthorized as error:
            self._authorize(error)
            content, _ = self._web.content_of(url, headers)
        found = hashlib.sha256(content).hexdigest()
        if ":" in reference and self._sha256(reference) != found:  # a tag has no colon
            raise StoreError(f"{self._uri}: the digest of its manifest must be {reference}; was sha256:{found}")
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise StoreError(f"{self._uri}: its manifest is not a JSON object")
        return document

    def _sha256(self, digest: str) -> str:
        """The hexadecimal digits of a digest.

        Raises:
            StoreError: The digest is of another kind, which is not checked here.
        """
        found = _DIGEST.fullmatch(digest)
        if found is None:
            raise StoreError(f"{self._uri}: digests must be sha256 and 64 digits; one is {digest!r}")
        return found[1]

    def _authorize(self, refused: Unauthorized) -> None:
        """Authenticates as the registry asks: with a password, or with a token obtained for it.

        Raises:
            StoreError: There is no token.
        """
        challenge = refused.headers.get("WWW-Authenticate", "")
        basic = {"Authorization": f"Basic {self._credentials}"} if self._credentials else {}
        if not challenge.lower().startswith("bearer"):
            if not basic:
                raise refused
            self._web.headers.update(basic)
            return
        asked = dict(_CHALLENGE.findall(challenge))
        scope = asked.get("scope", f"repository:{self._repository}:pull")
        query = urlencode({"service": asked.get("service", ""), "scope": scope})
        realm = asked.get("realm", "")
        if urlsplit(realm).scheme != "https" and urlsplit(realm).hostname not in LOOPBACK:
            raise StoreError(f"{self._uri}: its registry asks for a password at {realm!r}; it must begin with https://")
        answer = Web(self._uri, realm, basic).document(f"{realm}?{query}")
        token = answer.get("token") or answer.get("access_token")
        self._web.headers["Authorization"] = f"Bearer {token}"

    def _layer(self, layer: dict[str, Any], number: int) -> RemoteFile:
        notes = layer.get("annotations") or {}
        digest, size, kind = str(layer["digest"]), int(str(layer["size"])), str(layer.get("mediaType", ""))
        name = str(notes.get(TITLE) or f"layer{number}{_ending(kind)}")
        unpack = notes.get(UNPACK) == "true" or is_archive(name) or (TITLE not in notes and "tar" in kind)
        return RemoteFile(name, size, digest, self._sha256(digest), unpack=unpack, key=f"{self._base}/blobs/{digest}")


def _ending(kind: str) -> str:
    return ".tar.gz" if "gzip" in kind else ".tar" if "tar" in kind else ""


def _credentials(host: str) -> str:
    """The credentials for a registry in Docker's configuration, in base64; empty if there are none."""
    user, password = os.environ.get("HEADRACE_OCI_USER"), os.environ.get("HEADRACE_OCI_PASSWORD")
    if user and password:
        return base64.b64encode(f"{user}:{password}".encode()).decode()
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    try:
        auths = json.loads((Path(folder) / "config.json").read_text()).get("auths", {})
    except (OSError, ValueError):
        return ""
    return str(auths.get(host, {}).get("auth", ""))
