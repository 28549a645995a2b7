"""API keys: a file with their hashes, their creation and revocation, and the check of a call's key.

A key is `hrk_ID_SECRET`: a public ID, and 256 random bits. The file holds the SHA-256 of the secret. No slow hash is
needed: nobody can guess 256 random bits, however fast they try.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

from headrace_server.errors import invalid, misread, unreadable
from headrace_server.security.principal import Principal, unauthenticated

PREFIX = "hrk_"
_KEY = re.compile(r"hrk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
_NO_HASH = "0" * 64

INVALID = "the API key is not valid"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, as stored in the file.

    Attributes:
        id: The key's public part.
        name: The owner; the principal is `key:NAME`.
        hash: SHA-256 of the key's secret, in hexadecimal digits.
        created: When the key was created, in seconds since 1970.
        expires: When the key expires, in seconds since 1970; None means never.
        revoked: When the key was revoked, in seconds since 1970; None if it was not.
    """

    id: str
    name: str
    hash: str
    created: int
    expires: int | None = None
    revoked: int | None = None


Keys = Mapping[str, ApiKey]
"""The keys by their public part."""


def read_keys(path: Path) -> Keys:
    """Reads the keys in a file.

    Raises:
        ServingError: The file cannot be read, or is not a file of keys.
    """
    try:
        document = json.loads(path.read_bytes())
        keys = [ApiKey(**own) for own in document["keys"]]
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, TypeError, KeyError) as error:
        raise invalid(f"{path} is not a file of API keys, as `headrace keys` writes it: {misread(error)}") from error
    for key in keys:
        if not re.fullmatch(r"[0-9a-f]{64}", key.hash) or not _NAME.fullmatch(key.name):
            raise invalid(f"{path}: the key {key.id!r} has no name, or no hash")
    return {key.id: key for key in keys}


def create_key(path: Path, name: str, *, expires: int | None = None) -> str:
    """Creates a key, adds its hash to a file, and returns the key, which is shown only now.

    Args:
        path: The file of API keys.
        name: The key's owner, who may have several keys.
        expires: When the key expires, in seconds since 1970; None means never.

    Raises:
        ServingError: The name is invalid, or the file cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise invalid(
            f"the name must begin with a letter or digit, followed by letters, digits and . _ @ -; was {name!r}"
        )
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    with _changed(path) as keys:
        keys[identity] = ApiKey(identity, name, _hash(secret), int(time.time()), expires)
    return f"{PREFIX}{identity}_{secret}"


def revoke_keys(path: Path, which: str) -> list[ApiKey]:
    """Revokes the key with an ID, or every key with a name; returns those that were valid before.

    Raises:
        ServingError: There is no such key, or the file cannot be read or written.
    """
    with _changed(path, must_exist=True) as keys:
        found = [key for key in keys.values() if which in (key.id, key.name) and key.revoked is None]
        if not found:
            raise invalid(f"{path} has no key with the ID or the name {which!r} that is not revoked")
        for key in found:
            keys[key.id] = replace(key, revoked=int(time.time()))
    return found


def check_key(token: str, keys: Keys, now: float) -> Principal:
    """Checks a key, and returns its principal.

    Raises:
        Refused: UNAUTHENTICATED. Only a caller that knows the secret is told that the key is revoked or has expired.
    """
    found = _KEY.fullmatch(token)
    key = keys.get(found[1]) if found else None
    hashed = _hash(found[2] if found else "")
    if not hmac.compare_digest(hashed, key.hash if key else _NO_HASH) or key is None:
        raise unauthenticated(INVALID)
    if key.revoked is not None:
        raise unauthenticated("the API key has been revoked")
    if key.expires is not None and now >= key.expires:
        raise unauthenticated("the API key has expired")
    return Principal(f"key:{key.name}", expires=key.expires)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


@contextmanager
def _changed(path: Path, *, must_exist: bool = False) -> Iterator[dict[str, ApiKey]]:
    """A context with the keys of a file, which is locked for other processes, and replaced as a whole at the end."""
    try:
        with _locked(path):
            keys = dict(read_keys(path)) if must_exist or path.exists() else {}
            yield keys
            document = {"keys": [asdict(key) for key in keys.values()]}
            _replace(path, lambda file: json.dump(document, file, indent=1))
    except OSError as error:
        raise unreadable(path, error) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flock(folder, LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(path: Path, write: Callable[[Any], None]) -> None:
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():  # the server may run as another user, to whom the operator gives read access
        known = path.stat()
        os.chmod(new, known.st_mode & 0o777)
        if known.st_uid != os.geteuid() or known.st_gid != os.getegid():
            os.chown(new, known.st_uid, known.st_gid)
    os.replace(new, path)
