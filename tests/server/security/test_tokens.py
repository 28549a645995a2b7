"""Tokens: which claims are checked, and an issuer's keys that are added, withdrawn or unreachable."""

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import jwt
import pytest

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.security.issuer_documents import fetch_json, secure_url
from headrace_server.security.principal import Refused
from headrace_server.security.tokens import PAUSE_SECONDS, REFRESH_SECONDS, KeySet, TokenOptions, Tokens
from tests.support.clock import Clock
from tests.support.issuer import AUDIENCE, Issuer, new_key


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    own = Issuer()
    yield own
    own.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(issuer: Issuer, clock: Clock) -> Tokens:
    options = TokenOptions(issuer.url, (AUDIENCE, "other"))
    return Tokens(options, KeySet(options, clock=clock))


def reason(tokens: Tokens, token: str) -> str:
    with pytest.raises(Refused) as error:
        tokens.check(token)
    assert error.value.code == Code.UNAUTHENTICATED
    return error.value.message


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_each_kind_of_signature(issuer: Issuer, tokens: Tokens, algorithm: str) -> None:
    issuer.keys["own"] = (algorithm, new_key(algorithm))

    principal = tokens.check(issuer.token("own", groups=["ml", "ops"]))
    assert (principal.name, principal.groups) == ("jwt:alice", frozenset({"jwt-group:ml", "jwt-group:ops"}))


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"exp": 1}, "the token has expired"),
        ({"exp": None}, "the token is not valid"),
        ({"exp": 10**400}, "the token expires later than the clock can count"),
        ({"nbf": 4_000_000_000}, "the token is not valid yet"),
        ({"aud": "elsewhere"}, "the token is for another audience"),
        ({"aud": None}, "the token is not valid"),
        ({"iss": "https://elsewhere.example"}, "the token is from another issuer"),
        ({"iss": None}, "the token is not valid"),
        ({"sub": None}, "the token has no claim 'sub'"),
        ({"sub": ""}, "the token has no claim 'sub'"),
        ({"sub": "\ud800"}, "the token has no claim 'sub'"),
    ],
)
def test_errors_in_claims(issuer: Issuer, tokens: Tokens, claims: dict[str, Any], said: str) -> None:
    assert said in reason(tokens, issuer.token(**claims))


def test_clocks_may_differ_a_little(issuer: Issuer, tokens: Tokens) -> None:
    now = int(time.time())

    assert tokens.check(issuer.token(exp=now - 10)).name == "jwt:alice"
    assert reason(tokens, issuer.token(exp=now - 60)) == "the token has expired"


def test_a_token_that_chooses_how_it_is_checked(issuer: Issuer, tokens: Tokens) -> None:
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "mallory", "exp": 4_000_000_000}
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": "first"})
    public: str = issuer.document("/jwks")["keys"][0]["x"]
    shared = jwt.encode(claims, public, algorithm="HS256", headers={"kid": "first"})

    assert (
        reason(tokens, unsigned) == reason(tokens, shared) == "the token is signed by an algorithm that is not accepted"
    )


def test_invalid_tokens(issuer: Issuer, tokens: Tokens) -> None:
    good = issuer.token()
    head, body, signature = good.split(".")
    forged = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged["sub"] = "mallory"
    other_body = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode().rstrip("=")

    for wrong in ("", "a.b.c", f"{head}.{body}", f"{head}.{other_body}.{signature}", f"{head}.{body}."):
        assert reason(tokens, wrong) == "the token is not valid"
    assert reason(tokens, good + "A" * (16 << 10)) == "the token is too long"


def test_a_new_key_is_accepted_and_a_withdrawn_one_is_not(issuer: Issuer, tokens: Tokens, clock: Clock) -> None:
    old = issuer.token()
    assert tokens.check(old).name == "jwt:alice"

    issuer.keys["second"] = ("ES256", new_key())
    clock.now += PAUSE_SECONDS
    assert tokens.check(issuer.token("second")).name == "jwt:alice"
    del issuer.keys["first"]
    assert not tokens.look()
    assert tokens.known(old) is not None
    clock.now += REFRESH_SECONDS
    assert tokens.look()
    assert tokens.known(old) is None
    assert "does not have" in reason(tokens, old)


def test_a_key_that_is_replaced_by_another_is_withdrawn(issuer: Issuer, tokens: Tokens, clock: Clock) -> None:
    old = issuer.token()
    tokens.check(old)

    issuer.keys["second"] = ("ES256", new_key())
    del issuer.keys["first"]
    clock.now += PAUSE_SECONDS
    tokens.check(issuer.token("second"))
    assert tokens.known(old) is not None, "only the next poll of the keys, within a second, notices it"
    assert tokens.look()
    assert tokens.known(old) is None
    assert not tokens.look()


def test_strangers_cannot_cause_fetches_at_will(issuer: Issuer, tokens: Tokens, clock: Clock) -> None:
    stranger = issuer.token("unknown", key=new_key(), algorithm="ES256")
    for _ in range(20):
        assert "does not have" in reason(tokens, stranger)
    assert issuer.fetches == 1

    clock.now += PAUSE_SECONDS
    assert "does not have" in reason(tokens, stranger)
    assert issuer.fetches == 2


def test_an_issuer_that_is_down(issuer: Issuer, tokens: Tokens, clock: Clock) -> None:
    issuer.is_up = False
    for _ in range(3):
        with pytest.raises(ServingError) as error:
            tokens.check(issuer.token())
        assert error.value.code == Code.UNAVAILABLE

    issuer.is_up = True
    clock.now += PAUSE_SECONDS
    assert tokens.check(issuer.token()).name == "jwt:alice"
    issuer.is_up = False
    clock.now += REFRESH_SECONDS
    assert not tokens.look(), "the keys stay as they were"
    assert tokens.check(issuer.token()).name == "jwt:alice"


def test_an_issuer_that_does_not_speak_http(issuer: Issuer, tokens: Tokens) -> None:
    issuer.garbage = b"220 mail.example\r\n"

    with pytest.raises(ServingError, match="cannot be fetched") as error:
        tokens.check(issuer.token())
    assert error.value.code == Code.UNAVAILABLE


def test_a_discovery_document_of_another_issuer(issuer: Issuer) -> None:
    options = TokenOptions(issuer.url + "/", (AUDIENCE,))
    tokens = Tokens(options, KeySet(options))

    with pytest.raises(ServingError, match=f"names the issuer '{issuer.url}'; it must name '{issuer.url}/'") as error:
        tokens.check(issuer.token())
    assert error.value.code == Code.UNAVAILABLE


@pytest.mark.parametrize("keys", [None, 5])
def test_a_discovery_document_without_keys(issuer: Issuer, tokens: Tokens, keys: Any) -> None:
    issuer.keys_url = keys

    with pytest.raises(ServingError, match=f"jwks_uri must be the URL of the issuer's keys; was {keys}") as error:
        tokens.check(issuer.token())
    assert error.value.code == Code.UNAVAILABLE


def test_keys_are_fetched_over_https_or_from_this_machine() -> None:
    for good in ("https://issuer.example/a", "http://127.0.0.1:1/a", "http://localhost/a"):
        assert secure_url("it", good) == good
    for bad in ("http://issuer.example", "file:///etc/passwd", "ftp://127.0.0.1/", "issuer.example", ""):
        with pytest.raises(ServingError, match="it must be a URL that begins with https"):
            secure_url("it", bad)


def test_callers_with_a_known_key_do_not_wait_for_a_hanging_issuer(
    issuer: Issuer, tokens: Tokens, clock: Clock
) -> None:
    tokens.check(issuer.token())
    fetching, answer, fetch = Event(), Event(), tokens._keys._fetch

    def hang(url: str) -> Any:
        fetching.set()
        answer.wait(60)
        return fetch(url)

    tokens._keys._fetch = hang
    clock.now += PAUSE_SECONDS
    stranger = issuer.token("unknown", key=new_key(), algorithm="ES256")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(reason, tokens, stranger)
        assert fetching.wait(60)
        assert tokens.check(issuer.token(sub="bob")).name == "jwt:bob"
        assert "does not have" in reason(tokens, stranger)
        answer.set()
        assert "does not have" in waits.result()


def test_a_check_that_a_withdrawal_overtakes_is_not_remembered(issuer: Issuer, tokens: Tokens, clock: Clock) -> None:
    old, key = issuer.token(), tokens._keys.key
    tokens.check(issuer.token(sub="bob"))

    def overtaken(key_id: str) -> Any:
        found = key(key_id)
        issuer.keys["second"] = ("ES256", new_key())
        issuer.keys.pop("first", None)
        clock.now += REFRESH_SECONDS
        assert tokens.look()
        return found

    tokens._keys.key = overtaken  # type: ignore[method-assign]
    tokens.check(old)
    assert tokens.known(old) is None


def with_keys(*documents: dict[str, Any]) -> Tokens:
    """Checks tokens of an issuer whose keys are these."""
    options = TokenOptions("https://issuer.example", (AUDIENCE,), "https://issuer.example/keys")
    return Tokens(options, KeySet(options, lambda _: {"keys": list(documents)}))


def signed(key: Any, algorithm: str, **header: Any) -> str:
    """A token that an issuer has signed in this way."""
    claims = {"iss": "https://issuer.example", "aud": AUDIENCE, "sub": "alice", "exp": 4_000_000_000}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": "own", **header})


RSA = new_key("RS256")
PUBLISHED: dict[str, Any] = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key())), "kid": "own"}  # type: ignore[arg-type]
PUBLISHED.pop("key_ops", None)


@pytest.mark.parametrize(
    "document",
    [
        {**PUBLISHED, "use": "enc"},
        {**PUBLISHED, "key_ops": ["encrypt", "wrapKey"]},
        {**PUBLISHED, "alg": "RSA-OAEP"},
        {**PUBLISHED, "alg": "PS256"},
    ],
)
def test_a_key_that_is_not_for_such_signatures(document: dict[str, Any]) -> None:
    assert reason(with_keys(document), signed(RSA, "RS256")) in (
        "the token is signed with a key that its issuer does not have",
        "the token is not valid",
    )


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256"])
def test_an_rsa_key_that_names_no_algorithm(algorithm: str) -> None:
    assert with_keys(PUBLISHED).check(signed(RSA, algorithm)).name == "jwt:alice"


def test_extensions_that_must_be_understood() -> None:
    headers: list[dict[str, Any]] = [{"crit": ["b64"], "b64": True}, {"crit": ["x"], "x": 1}, {"crit": []}]
    for header in headers:
        assert reason(with_keys(PUBLISHED), signed(RSA, "RS256", **header)) in (
            "the token has an extension that is not understood",
            "the token is not valid",
        )


def test_an_issuer_that_withdraws_its_last_key(issuer: Issuer, tokens: Tokens, clock: Clock) -> None:
    old = issuer.token()
    tokens.check(old)
    issuer.keys.clear()
    clock.now += REFRESH_SECONDS
    assert tokens.look()
    assert tokens.known(old) is None
    assert "does not have" in reason(tokens, old)


@pytest.mark.parametrize("target", ["http://issuer.example/jwks", "ftp://127.0.0.1/jwks", "http://192.0.2.1/jwks"])
def test_a_redirect_to_where_somebody_could_change_the_keys(issuer: Issuer, target: str) -> None:
    issuer.redirect = target
    with pytest.raises(
        ServingError, match="cannot be fetched: what it redirects to must be a URL that begins"
    ) as error:
        fetch_json(f"{issuer.url}/jwks")
    assert error.value.code == Code.UNAVAILABLE
    issuer.redirect = ""
    assert fetch_json(f"{issuer.url}/jwks")["keys"]
