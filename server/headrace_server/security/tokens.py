"""JSON Web Tokens of an OpenID Connect provider: the provider's keys, and the check of a call's token."""

import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from threading import Lock
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from headrace_protos import Code
from headrace_server.config.security import LOOPBACK
from headrace_server.errors import ServingError, invalid
from headrace_server.security.packages import needs
from headrace_server.security.principal import Principal, Refused, unauthenticated

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Algorithms with public keys; a token must never choose one whose key is a secret, or none at all."""

REFRESH_SECONDS = 300.0
"""Seconds after which the keys are fetched again, so that a withdrawn key is refused by then."""

PAUSE_SECONDS = 10.0
"""The minimum number of seconds between two fetches, since anybody can send tokens with unknown keys."""

MAX_DOCUMENT_BYTES = 1 << 20
MAX_TOKEN_BYTES = 16 << 10
FETCH_SECONDS = 10.0
MAX_KNOWN = 10_000
"""The maximum number of tokens whose check is remembered."""


@dataclass(frozen=True, slots=True)
class TokenOptions:
    """Which tokens are accepted.

    Attributes:
        issuer: The `iss` that tokens must have; without a `jwks_url`, its discovery document is read at this URL.
        audience: One of these must be in the token's `aud`.
        jwks_url: The URL of the issuer's keys; empty means the one in its discovery document.
        name_claim: The claim that is the principal's name.
        groups_claim: The claim that lists the principal's groups.
        leeway: Seconds by which clocks may differ.
    """

    issuer: str
    audience: tuple[str, ...]
    jwks_url: str = ""
    name_claim: str = "sub"
    groups_claim: str = "groups"
    leeway: float = 30.0


def fetch_json(url: str) -> Any:
    """Fetches the JSON document at a URL.

    Raises:
        ServingError: UNAVAILABLE if it cannot be fetched, or is not JSON.
    """
    try:
        request = Request(url, headers={"Accept": "application/json"})
        with urlopen(request, timeout=FETCH_SECONDS) as response:
            body = response.read(MAX_DOCUMENT_BYTES + 1)
        if len(body) > MAX_DOCUMENT_BYTES:
            raise ValueError(f"it is larger than {MAX_DOCUMENT_BYTES} bytes")
        return json.loads(body)
    except (HTTPException, OSError, ValueError) as error:
        raise ServingError(Code.UNAVAILABLE, f"{url} cannot be fetched: {error}") from error


class KeySet:
    """The keys of an issuer, fetched when they are needed. Any thread.

    Args:
        options: The options of tokens.
        fetch: Returns the JSON document at a URL.
        clock: Returns the time, in seconds.
    """

    def __init__(
        self,
        options: TokenOptions,
        fetch: Callable[[str], Any] = fetch_json,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        with needs("auth"):
            import jwt
        self._make = jwt.PyJWKSet.from_dict
        self._errors = jwt.PyJWTError
        self._options = options
        self._fetch = fetch
        self._clock = clock
        self._lock = Lock()
        self._document: Any = None
        self._looked: Any = None  # the document at the last `look`
        self._keys: Mapping[str, Any] = {}
        self._tried: float | None = None

    def key(self, key_id: str) -> Any:
        """A key by its ID; an empty ID means the only key. For an unknown ID, the keys are fetched again.

        Raises:
            ServingError: UNAVAILABLE if there are no keys, and they cannot be fetched.
            Refused: UNAUTHENTICATED if there is no such key.
        """
        found = self._find(key_id)
        if found is None:
            self._refresh(PAUSE_SECONDS)
            found = self._find(key_id)
        if found is None:
            raise unauthenticated("the token is signed with a key that its issuer does not have")
        return found

    def look(self) -> bool:
        """Fetches the keys again if they are old enough; returns whether any key was withdrawn since the last call.

        The keys are compared with those at the last call of this method, not with those of the last fetch: a token with
        an unknown key may have caused a fetch in between.
        """
        if self._document is None:
            return False
        try:
            self._refresh(REFRESH_SECONDS)
        except ServingError as error:
            log.warning("the issuer's previous keys stay in use: %s", error.message)
        before, self._looked = self._looked, self._document
        return any(key not in self._looked["keys"] for key in before["keys"])

    def _find(self, key_id: str) -> Any:
        keys = self._keys
        if not key_id:
            return next(iter(keys.values())) if len(keys) == 1 else None
        return keys.get(key_id)

    def _refresh(self, pause: float) -> None:
        """Fetches the keys, unless that was tried recently; during a fetch, only callers without any keys wait."""
        if not self._lock.acquire(blocking=self._document is None):
            return
        try:
            now = self._clock()
            if self._tried is not None and now - self._tried < pause:
                if self._document is None:
                    raise ServingError(Code.UNAVAILABLE, "the keys of the tokens' issuer cannot be fetched")
                return
            self._tried = now
            document = self._fetch(self._options.jwks_url or self._discovered())
            try:
                keys = {key.key_id or "": key for key in self._make(document).keys}
            except (self._errors, AttributeError, TypeError) as error:
                raise ServingError(Code.UNAVAILABLE, f"the issuer's keys cannot be read: {error}") from error
            if self._document is None:
                self._looked = document
            self._document, self._keys = document, keys
        finally:
            self._lock.release()

    def _discovered(self) -> str:
        """The URL of the issuer's keys. OpenID Connect Discovery 1.0, section 4: the document must name this issuer."""
        url = self._options.issuer.rstrip("/") + "/.well-known/openid-configuration"
        document = self._fetch(url)
        named, keys = (document.get(name) if isinstance(document, dict) else None for name in ("issuer", "jwks_uri"))
        if named != self._options.issuer:
            text = f"{url} names the issuer {named!r}; it must name {self._options.issuer!r}"
            raise ServingError(Code.UNAVAILABLE, text)
        if not isinstance(keys, str):
            raise ServingError(Code.UNAVAILABLE, f"{url}: jwks_uri must be the URL of the issuer's keys; was {keys!r}")
        return secure_url("jwks_uri", keys)


class Tokens:
    """Checks tokens, each only once until it expires. Any thread.

    Args:
        options: The accepted tokens.
        keys: The keys of the tokens' issuer.
        clock: Returns the time, in seconds since 1970.
    """

    def __init__(self, options: TokenOptions, keys: KeySet, clock: Callable[[], float] = time.time) -> None:
        with needs("auth"):
            import jwt
        self._jwt = jwt
        self._options = options
        self._keys = keys
        self._clock = clock
        self._lock = Lock()
        self._known: OrderedDict[bytes, Principal] = OrderedDict()

    def known(self, token: str) -> Principal | None:
        """The principal of a token that has been checked before and is still valid."""
        with self._lock:
            principal = self._known.get(_digest(token))
        good = principal is not None and principal.expires is not None and self._clock() < principal.expires
        return principal if good else None

    def check(self, token: str) -> Principal:
        """Checks a token, and returns its principal. May wait for the issuer's keys.

        Raises:
            Refused: UNAUTHENTICATED if the token is not valid.
            ServingError: UNAVAILABLE if the issuer's keys cannot be fetched.
        """
        claims = self._claims(token)
        name, groups = claims.get(self._options.name_claim), claims.get(self._options.groups_claim, ())
        if not isinstance(name, str) or not name:
            raise unauthenticated(f"the token has no claim {self._options.name_claim!r} with a non-empty string")
        groups = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else ()
        of = frozenset(f"jwt-group:{group}" for group in groups if isinstance(group, str))
        principal = Principal(f"jwt:{name}", of, expires=float(claims["exp"]) + self._options.leeway)
        with self._lock:
            self._known[_digest(token)] = principal
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return principal

    def look(self) -> bool:
        """Refreshes the issuer's keys; returns whether one was withdrawn, so that every token must be checked again."""
        changed = self._keys.look()
        if changed:
            with self._lock:
                self._known.clear()
        return changed

    def _claims(self, token: str) -> dict[str, Any]:
        options, jwt = self._options, self._jwt
        if len(token) > MAX_TOKEN_BYTES:
            raise unauthenticated("the token is too long")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise unauthenticated("the token is signed by an algorithm that is not accepted")
            claims: dict[str, Any] = jwt.decode(
                token,
                self._keys.key(str(header.get("kid") or "")),
                algorithms=list(ALGORITHMS),
                audience=list(options.audience),
                issuer=options.issuer,
                leeway=options.leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise _refusal(error, jwt) from error
        return claims


def _refusal(error: Exception, jwt: Any) -> Refused:
    """The refusal of a token. It names the fault only if the token's signature is valid."""
    said = {
        jwt.ExpiredSignatureError: "the token has expired",
        jwt.ImmatureSignatureError: "the token is not valid yet",
        jwt.InvalidAudienceError: "the token is for another audience",
        jwt.InvalidIssuerError: "the token is from another issuer",
    }
    return unauthenticated(said.get(type(error), "the token is not valid"))


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


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
