"""HTTP for stores: ranges, tokens that are sent to no other host, and errors that name the URL."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, Any
from urllib.parse import urlsplit

from headrace_server.stores.base import CHUNK, Changed, StoreError

TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as unreachable."""

SCHEMES = ("https", "http")

LARGEST_DOCUMENT = 64 << 20
"""The maximum number of bytes of a listing."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, but not from https to http; sends a token to no other host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None:
            before, after = urlsplit(req.full_url), urlsplit(new.full_url)
            if before.scheme == "https" and after.scheme != "https":
                raise urllib.error.HTTPError(newurl, code, f"{msg} (a redirect to a URL without TLS)", headers, fp)
            if after.scheme not in SCHEMES:
                raise urllib.error.HTTPError(newurl, code, f"{msg} (a redirect to a URL that is not HTTP)", headers, fp)
            if _origin(req.full_url) != _origin(new.full_url):
                new.remove_header("Authorization")
        return new


class Web:
    """Sends the requests of one store.

    Args:
        uri: The URI of the store, for errors.
        home: A URL of the server that a token is for; servers may refer to others, such as for the next part of a list.
        headers: Headers that are sent with each request; `Authorization` only to the server of `home`.
    """

    def __init__(self, uri: str, home: str, headers: Mapping[str, str] | None = None) -> None:
        self.uri = uri
        self._home = _origin(home)
        self.headers = dict(headers or {})
        self._opener = urllib.request.build_opener(_Redirects())

    def head(self, url: str) -> Message:
        """Requests the headers of a resource.

        Raises:
            StoreError: The resource cannot be fetched.
        """
        with self.open(url, method="HEAD") as answer:
            return answer.headers

    def document(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """Requests a resource, and parses it as JSON.

        Raises:
            StoreError: The resource cannot be fetched, or is not JSON.
        """
        return self.document_of(url, headers)[0]

    def document_of(self, url: str, headers: Mapping[str, str] | None = None) -> tuple[Any, Message]:
        """Like `document`, but also returns the headers."""
        body, got = self.content_of(url, headers)
        try:
            return json.loads(body), got
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{self.uri}: {url} is not JSON: {error}") from error

    def content_of(self, url: str, headers: Mapping[str, str] | None = None) -> tuple[bytes, Message]:
        """Requests a small resource, and returns its bytes and the headers.

        Raises:
            StoreError: The resource cannot be fetched.
        """
        with self.open(url, headers) as answer:
            return answer.read(LARGEST_DOCUMENT), answer.headers

    def read(self, url: str, offset: int, tag: str = "", size: int = -1) -> Iterator[bytes]:
        """The bytes of a resource from an offset on.

        Args:
            url: The URL of the resource.
            offset: The number of bytes to skip.
            tag: The ETag that the resource must have; empty means any ETag.
            size: The resource's size in bytes; -1 if that is not known.

        Raises:
            Changed: The resource is gone, or has another ETag.
            StoreError: The resource cannot be read.
        """
        with self._open_from(url, offset, size) as answer:
            got = answer.headers.get("ETag", "")
            if tag and got and got != tag:
                raise Changed(f"{self.uri}: {url} changed while it was fetched")
            skip = offset if offset and answer.status != 206 else 0  # not every server supports ranges
            try:
                while chunk := answer.read(CHUNK):
                    if skip >= len(chunk):
                        skip -= len(chunk)
                        continue
                    yield chunk[skip:]
                    skip = 0
            except (OSError, HTTPException) as error:
                raise StoreError(f"{self.uri}: {url}: {error!r}") from error

    def _open_from(self, url: str, offset: int, size: int) -> HTTPResponse:
        """Requests the resource from an offset on, or all of it if the server does not support the range."""
        plain = {"Accept-Encoding": "identity"}
        if not offset:
            return self.open(url, plain)
        last = size - 1 if size > 0 else ""  # some registries do not support a range without an end
        try:
            return self.open(url, {**plain, "Range": f"bytes={offset}-{last}"})
        except NoSuchRange:
            return self.open(url, plain)

    def open(self, url: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> HTTPResponse:
        """Sends a request and returns its answer, whose body has not been read.

        Raises:
            StoreError: There is no successful answer; `Changed` for 404, 410 and 412; `Unauthorized` for 401.
        """
        if urlsplit(url).scheme not in SCHEMES:
            raise StoreError(f"{self.uri}: {url} must begin with https:// or http://")
        request = urllib.request.Request(url, headers={**self.headers, **(headers or {})}, method=method)
        if _origin(url) != self._home:
            request.remove_header("Authorization")
        try:
            answer: HTTPResponse = self._opener.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refusal(url, error) from error
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise StoreError(f"{self.uri}: {urlsplit(url).netloc} cannot be reached: {reason}") from error
        return answer

    def _refusal(self, url: str, error: urllib.error.HTTPError) -> StoreError:
        text = f"{self.uri}: HTTP {error.code} {error.reason} for {url}"
        match error.code:
            case 401:
                return Unauthorized(f"{text}: are the credentials right?", error.headers)
            case 403:
                return StoreError(f"{text}: are the credentials right?")
            case 404 | 410 | 412:
                return Changed(text)
            case 416:
                return NoSuchRange(text)
            case _:
                return StoreError(text)


def _origin(url: str) -> tuple[str, str]:
    return urlsplit(url)[:2]


class NoSuchRange(StoreError):
    """A resource cannot be read from the requested offset."""


class Unauthorized(StoreError):
    """A request without credentials, or with wrong ones.

    Attributes:
        headers: The answer's headers, which say how to authenticate.
    """

    def __init__(self, text: str, headers: Message) -> None:
        super().__init__(text)
        self.headers = headers


def bearer(*variables: str) -> dict[str, str]:
    """The header with the token from the first of some environment variables that is set; empty if none is."""
    token = next(filter(None, (os.environ.get(name, "") for name in variables)), "")
    return {"Authorization": f"Bearer {token}"} if token else {}
