"""Each API, with each kind and state of credentials, for each kind of method: the table of docs/security.md."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace_server.config.mlflow import MlflowOptions
from headrace_server.config.security import AuthOptions
from headrace_server.security.keys import create_key, revoke_keys
from tests.conftest import Run
from tests.server.security.calls import APIS, Outcome, Target, methods_of, target_of
from tests.support import models
from tests.support.calls import MODEL
from tests.support.issuer import AUDIENCE, Issuer, new_key
from tests.support.ports import free_port

POLICY = """
[[rules]]
who = ["key:shop", "jwt:alice", "jwt-group:analysts"]
models = ["mod*"]

[[rules]]
who = ["key:operator", "jwt:operator"]
methods = ["predict", "metadata", "admin"]
"""

STATES = ("right", "wrong", "expired", "missing", "revoked")


@dataclass
class Guarded:
    """A server that accepts keys and tokens, and a header for each kind and state of credentials."""

    target: Target
    headers: dict[tuple[str, str], str]
    operator: str


def _keys(file: Path) -> dict[str, str]:
    right, revoked = create_key(file, "shop"), create_key(file, "shop")
    expired = create_key(file, "shop", expires=int(time.time()) - 1)
    revoke_keys(file, revoked.split("_")[1])
    wrong = right[:-1] + ("A" if right[-1] != "A" else "B")
    return {"right": right, "wrong": wrong, "expired": expired, "revoked": revoked}


def _tokens(issuer: Issuer) -> dict[str, str]:
    return {
        "right": issuer.token(),
        "wrong": issuer.token(key=new_key()),
        "expired": issuer.token(exp=int(time.time()) - 3600),
        "revoked": issuer.token("withdrawn", key=new_key(), algorithm="ES256"),
    }


@pytest.fixture(scope="module")
def guarded(running: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder, issuer, rest_port = tmp_path_factory.mktemp("guarded"), Issuer(), free_port()
    keys, policy = folder / "keys.json", folder / "policy.toml"
    policy.write_text(POLICY)
    made = {"key": _keys(keys), "jwt": _tokens(issuer)}
    operator = create_key(keys, "operator")
    server = running(
        models.linear,
        rest_api_port=rest_port,
        open_inference_admin="write",
        mlflow=MlflowOptions(model=MODEL),
        auth=AuthOptions(keys_file=str(keys), policy_file=str(policy), jwt_issuer=issuer.url, jwt_audience=(AUDIENCE,)),
    )
    headers = {(kind, state): f"Bearer {token}" for kind, own in made.items() for state, token in own.items()}
    yield Guarded(target_of(server.port, rest_port), headers, f"Bearer {operator}")
    issuer.close()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", ["key", "jwt"])
@pytest.mark.parametrize("api", APIS)
def test_every_cell(guarded: Guarded, api: str, kind: str, state: str) -> None:
    header = guarded.headers.get((kind, state), "")

    for method in methods_of(api):
        for _ in range(3):  # Python decides on the first, and the native transport's cached verdict answers the others
            found = APIS[api](guarded.target, method, MODEL, header).outcome
            good = Outcome.DENIED if method == "admin" else Outcome.OK
            assert found is (good if state == "right" else Outcome.UNAUTHENTICATED), method


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", ["key", "jwt"])
def test_every_cell_of_mlflows_protocol(guarded: Guarded, kind: str, state: str) -> None:
    header = guarded.headers.get((kind, state), "")
    good = Outcome.OK if state == "right" else Outcome.UNAUTHENTICATED

    for _ in range(3):
        scored = guarded.target.http("POST", "/invocations", {"instances": [[1, 2, 3, 4]]}, header)
        assert (scored.outcome, guarded.target.http("GET", "/version", header=header).outcome) == (good, good)
        assert guarded.target.http("GET", "/ping", header=header).outcome is Outcome.OK, "health is open"
    # MLflow's API has no administrative calls, so even an administrator is refused.
    for path in ("/invocations/load", "/models"):
        assert guarded.target.http("POST", path, {}, guarded.operator).outcome is Outcome.DENIED


@pytest.mark.parametrize("api", APIS)
def test_an_unauthorised_caller_does_not_learn_whether_a_model_exists(guarded: Guarded, api: str) -> None:
    for method in ("predict", "metadata"):
        answer = APIS[api](guarded.target, method, "other", guarded.headers["key", "right"])
        assert answer.outcome is Outcome.DENIED
        known = APIS[api](guarded.target, method, "other", guarded.operator)
        assert known.outcome in (Outcome.NOT_FOUND, Outcome.OTHER), "to others, the server answers that it is missing"


@pytest.mark.parametrize("api", ["open-inference-grpc", "open-inference-rest"])
def test_callers_with_the_right_to_administer(guarded: Guarded, api: str) -> None:
    assert APIS[api](guarded.target, "admin", MODEL, guarded.operator).outcome is Outcome.OK


def test_rest_says_which_credentials_it_needs(guarded: Guarded) -> None:
    missing = APIS["tf-serving-rest"](guarded.target, "predict", MODEL, "")
    assert missing.headers["www-authenticate"] == 'Bearer realm="headrace"'
    wrong = APIS["open-inference-rest"](guarded.target, "predict", MODEL, guarded.headers["key", "wrong"])
    assert wrong.headers["www-authenticate"] == 'Bearer realm="headrace", error="invalid_token"'
    assert "error" in wrong.text
    assert "hrk_" not in wrong.text
