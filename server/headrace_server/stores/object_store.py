"""`s3://`, `gs://` and `az://`: object stores, through obstore."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from headrace_server.stores.base import CHUNK, Changed, Listing, RemoteFile, StoreError
from headrace_server.stores.uris import check_installed

_URI = re.compile(r"\w+://[^/]+(/.*)?")

_NO_ACCOUNT = "Account must be specified"
"""obstore's error for an Azure container without an account."""

_REFUSED = re.compile(r"status code: 40[13]|credential", re.IGNORECASE)
"""Recognises an error about credentials or rights by its text: it has no class of its own."""

SETTLED_AFTER = timedelta(seconds=60)
"""After this time without a change, a version counts as completely written."""


class ObjectStore:
    """A prefix of a bucket. Credentials and endpoints come from the environment, as for the clouds' own tools.

    Args:
        uri: `s3://bucket/prefix`, and the like.

    Raises:
        StoreError: obstore is not installed, or does not accept the URI.
    """

    def __init__(self, uri: str) -> None:
        check_installed(uri)
        import obstore
        from obstore.store import from_url

        if not _URI.fullmatch(uri):
            raise StoreError(f"{uri} must be {uri.partition('://')[0]}://BUCKET/PREFIX")
        self._uri, self._obstore = uri, obstore
        self._store: Any = self._asked(partial(from_url, uri.rstrip("/")))

    def list(self) -> Listing:
        """The objects below the prefix."""
        objects = [each for batch in self._asked(lambda: list(self._obstore.list(self._store))) for each in batch]
        if not objects:
            raise Changed(f"{self._uri}: there are no files below it")
        newest = max(each["last_modified"] for each in objects)
        files = [
            RemoteFile(str(each["path"]), int(each["size"]), str(each["e_tag"] or each["last_modified"]))
            for each in objects
            if not str(each["path"]).endswith("/")
        ]
        return Listing(files, settled=datetime.now(UTC) - newest > SETTLED_AFTER)

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The bytes of an object from an offset on."""
        options: dict[str, Any] = {"if_match": file.tag} if file.tag.startswith('"') else {}
        if offset:
            options["range"] = {"offset": offset}
        found = self._asked(lambda: self._obstore.get(self._store, file.key or file.path, options=options))
        stream = iter(found.stream(min_chunk_size=CHUNK))
        while (chunk := self._asked(lambda: next(stream, None))) is not None:
            yield bytes(chunk)

    def _asked(self, ask: Callable[[], Any]) -> Any:
        errors = self._obstore.exceptions
        try:
            return ask()
        except (FileNotFoundError, errors.NotFoundError, errors.PreconditionError) as error:
            raise Changed(f"{self._uri}: {_first_line(error)}") from error
        except (PermissionError, errors.PermissionDeniedError, errors.UnauthenticatedError) as error:
            raise StoreError(f"{self._uri}: are the credentials right? {_first_line(error)}") from error
        except (errors.BaseError, OSError, ValueError) as error:
            text = _first_line(error)
            hint = "are the credentials right? " if _REFUSED.search(text) else ""
            hint = "set AZURE_STORAGE_ACCOUNT_NAME and a key: " if _NO_ACCOUNT in text else hint
            raise StoreError(f"{self._uri}: {hint}{text}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
