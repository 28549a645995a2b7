"""JSON Web Tokens of an OpenID Connect provider: the provider's keys, and the check of a call's token."""

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.security.issuer_documents import fetch_json, secure_url
from headrace_server.security.packages import needs
from headrace_server.security.principal import Principal, Refused, unauthenticated

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Algorithms with public keys; a token must never choose one whose key is a secret, or none at all."""

REFRESH_SECONDS = 300.0
"""Seconds after which the keys are fetched again, so that a withdrawn key is refused by then."""

PAUSE_SECONDS = 10.0
"""The minimum number of seconds between two fetches, since anybody can send tokens with unknown keys."""

MAX_TOKEN_BYTES = 16 << 10
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


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key of an issuer.

    Attributes:
        key: The key, as PyJWT takes it.
        algorithms: The algorithms by which a token may be signed with it.
    """

    key: Any
    algorithms: Sequence[str]


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
        self._make = jwt.PyJWK.from_dict
        self._errors = jwt.PyJWTError
        self._options = options
        self._fetch = fetch
        self._clock = clock
        self._lock = Lock()
        self._document: Any = None
        self._looked: Any = None  # the document at the last `look`
        self._keys: Mapping[str, IssuerKey] = {}
        self._tried: float | None = None

    def key(self, key_id: str) -> "IssuerKey":
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

    def _find(self, key_id: str) -> "IssuerKey | None":
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
                keys = dict(self._usable(document["keys"]))
            except (KeyError, AttributeError, TypeError) as error:
                raise ServingError(Code.UNAVAILABLE, f"the issuer's keys cannot be read: {error}") from error
            if self._document is None:
                self._looked = document
            self._document, self._keys = document, keys
        finally:
            self._lock.release()

    def _usable(self, documents: Sequence[dict[str, Any]]) -> "Iterator[tuple[str, IssuerKey]]":
        """The keys for signatures, by their IDs; all other keys of the issuer are left out, as RFC 7517 asks."""
        for document in documents:
            with suppress(self._errors):
                made = self._make(document)
                algorithms = _algorithms(document, made.algorithm_name)
                if algorithms:
                    yield made.key_id or "", IssuerKey(made.key, algorithms)

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
        self._forgotten = 0  # how often all checks have been forgotten

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
        before = self._forgotten  # read before anything that the check depends on
        principal = self._principal(self._claims(token))
        with self._lock:
            if self._forgotten == before:  # otherwise the key may have been withdrawn meanwhile
                self._known[_digest(token)] = principal
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return principal

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        name, groups = claims.get(self._options.name_claim), claims.get(self._options.groups_claim, ())
        if not name or not _is_text(name):
            raise unauthenticated(f"the token has no claim {self._options.name_claim!r} with a non-empty string")
        groups = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else ()
        of = frozenset(f"jwt-group:{group}" for group in groups if _is_text(group))
        try:
            expires = float(claims["exp"]) + self._options.leeway
        except OverflowError as error:
            raise unauthenticated("the token expires later than the clock can count") from error
        return Principal(f"jwt:{name}", of, expires)

    def look(self) -> bool:
        """Refreshes the issuer's keys; returns whether one was withdrawn, so that every token must be checked again."""
        changed = self._keys.look()
        if changed:
            with self._lock:
                self._known.clear()
                self._forgotten += 1
        return changed

    def _claims(self, token: str) -> dict[str, Any]:
        options, jwt = self._options, self._jwt
        if len(token) > MAX_TOKEN_BYTES:
            raise unauthenticated("the token is too long")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise unauthenticated("the token is signed by an algorithm that is not accepted")
            if "crit" in header:
                raise unauthenticated("the token has an extension that is not understood")
            key = self._keys.key(str(header.get("kid") or ""))
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=list(key.algorithms),
                audience=list(options.audience),
                issuer=options.issuer,
                leeway=options.leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, RecursionError) as error:
            raise _refusal(error, jwt) from error
        return claims


def _algorithms(document: Mapping[str, Any], algorithm: str) -> Sequence[str]:
    """The accepted algorithms of a published key, to which PyJWT gives one algorithm; none if it signs no tokens."""
    uses = document.get("key_ops", ["verify"])
    if document.get("use", "sig") != "sig" or not isinstance(uses, list) or "verify" not in uses:
        return ()
    if document.get("kty") == "RSA" and not document.get("alg"):
        return [name for name in ALGORITHMS if name.startswith(("RS", "PS"))]
    return [name for name in ALGORITHMS if name == algorithm]


def _is_text(value: Any) -> bool:
    """Whether a claim's value is a string that has an encoding: JSON may contain a half of a surrogate pair."""
    return isinstance(value, str) and value.encode(errors="replace").decode() == value


def _refusal(error: Exception, jwt: Any) -> Refused:
    """The refusal of a token. It names the fault only if the token's signature is valid."""
    said = {
        jwt.ExpiredSignatureError: "the token has expired",
        jwt.ImmatureSignatureError: "the token is not valid yet",
        jwt.InvalidAudienceError: "the token is for another audience",
        jwt.InvalidIssuerError: "the token is from another issuer",
    }
    return unauthenticated(said.get(type(error), "the token is not valid"))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
