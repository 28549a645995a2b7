"""Fetches the documents of a tokens' issuer, in ways that let nobody change them in transit."""

import json
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from headrace_protos import Code
from headrace_server.config.security import LOOPBACK
from headrace_server.errors import ServingError, invalid

MAX_DOCUMENT_BYTES = 1 << 20
FETCH_SECONDS = 10.0


class _Redirects(HTTPRedirectHandler):
    """Follows redirects only to URLs whose content nobody can change on the way."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        try:
            secure_url("what it redirects to", newurl)
        except ServingError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_json(url: str) -> Any:
    """Fetches the JSON document at a URL.

    Raises:
        ServingError: UNAVAILABLE if it cannot be fetched, or is not JSON.
    """
    try:
        request = Request(url, headers={"Accept": "application/json"})
        with build_opener(_Redirects()).open(request, timeout=FETCH_SECONDS) as response:
            body = response.read(MAX_DOCUMENT_BYTES + 1)
        if len(body) > MAX_DOCUMENT_BYTES:
            raise ValueError(f"it is larger than {MAX_DOCUMENT_BYTES} bytes")
        return json.loads(body)
    except (HTTPException, OSError, RecursionError, ValueError, ServingError) as error:
        raise ServingError(Code.UNAVAILABLE, f"{url} cannot be fetched: {error}") from error


def secure_url(name: str, url: str) -> str:
    """Checks that nobody can change what a URL returns on the way: it is https, or on this machine. Returns the URL.

    Raises:
        ServingError: INVALID_ARGUMENT if the URL is neither.
    """
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in ("https", "http"):
        raise invalid(f"{name} must be a URL that begins with https://; was {url!r}")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise invalid(f"{name} must be a URL that begins with https://, unless it is on this machine; was {url!r}")
    return url
