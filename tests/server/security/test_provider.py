"""Tokens of a real OpenID Connect provider: npm's `oidc-provider`, found by its discovery document."""

import json
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from headrace_server.config.security import AuthOptions
from headrace_server.security import tokens
from tests.conftest import ROOT, Run
from tests.server.security.calls import APIS, Answered, Outcome, methods_of, target_of
from tests.support import models
from tests.support.calls import MODEL
from tests.support.ports import free_port
from tests.support.running import eventually

FOLDER = Path(os.environ.get("HEADRACE_OIDC_PROVIDER", ROOT / "build" / "oidc-provider"))
AUDIENCE = "https://headrace.example"


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    node = shutil.which("node")
    if node is None or not (FOLDER / "node_modules" / "oidc-provider").is_dir():
        pytest.skip(f"no provider: npm install --prefix {FOLDER} oidc-provider@9")
    script = Path(__file__).with_name("provider.mjs")
    with subprocess.Popen([node, str(script), str(FOLDER)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        yield next(line.strip() for line in lines if line.startswith("http://"))
        process.terminate()


def token(issuer: str, audience: str = AUDIENCE) -> str:
    """A token that the provider gives its client."""
    form = {"grant_type": "client_credentials", "resource": audience, "scope": "predict"}
    who = b64encode(b"trainer:a+secret+of+this+test+alone").decode()
    request = Request(f"{issuer}/token", urlencode(form).encode(), {"Authorization": f"Basic {who}"})
    with urlopen(request, timeout=60) as response:
        answer: str = json.load(response)["access_token"]
        return answer


class Called:
    """A server that accepts the provider's tokens, and its callers."""

    def __init__(self, running: Run, issuer: str, folder: Path) -> None:
        policy, port = folder / "policy.toml", free_port()
        policy.write_text('[[rules]]\nwho = ["jwt-group:machines"]\nmodels = ["mod*"]\n')
        auth = AuthOptions(
            jwt_issuer=issuer,
            jwt_audience=(AUDIENCE,),
            jwt_name_claim="client",
            jwt_leeway_seconds=0,
            policy_file=str(policy),
        )
        server = running(models.linear, rest_api_port=port, auth=auth)
        self._target = target_of(server.port, port)

    def ask(self, api: str, method: str, header: str, model: str = MODEL) -> Answered:
        """Makes one call."""
        return APIS[api](self._target, method, model, header)

    def are_refused(self, header: str) -> bool:
        """Whether a header is refused by every method of every API."""
        outcomes = {self.ask(api, method, header).outcome for api in APIS for method in methods_of(api)}
        return outcomes == {Outcome.UNAUTHENTICATED}


def test_an_expired_token_is_refused_everywhere(running: Run, issuer: str, tmp_path: Path) -> None:
    called = Called(running, issuer, tmp_path)
    brief = f"Bearer {token(issuer, f'{AUDIENCE}/brief')}"
    called.ask("tf-serving-grpc", "predict", brief)  # the token may still be valid; if so, the verdict is cached

    eventually(lambda: called.are_refused(brief))
    assert "expired" in called.ask("tf-serving-grpc", "predict", brief).text
    assert called.ask("tf-serving-grpc", "predict", f"Bearer {token(issuer)}").outcome is Outcome.OK


def test_a_token_whose_key_is_withdrawn_is_refused_everywhere(
    running: Run, issuer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "PAUSE_SECONDS", 0.0)
    called, before = Called(running, issuer, tmp_path), f"Bearer {token(issuer)}"
    for _ in range(2):
        assert [called.ask(api, "predict", before).outcome for api in APIS] == [Outcome.OK] * 4

    urlopen(f"{issuer}/rotate", timeout=60).close()
    after = f"Bearer {token(issuer)}"
    assert [called.ask(api, "predict", after).outcome for api in APIS] == [Outcome.OK] * 4
    eventually(lambda: called.are_refused(before))


def test_a_call_without_a_token_is_refused_everywhere(running: Run, issuer: str, tmp_path: Path) -> None:
    assert Called(running, issuer, tmp_path).are_refused("")


def test_every_api_takes_its_tokens(running: Run, issuer: str, tmp_path: Path) -> None:
    called = Called(running, issuer, tmp_path)
    good, elsewhere = token(issuer), token(issuer, "https://elsewhere.example")
    changed = good[:-8] + ("A" if good[-8] != "A" else "B") + good[-7:]

    for api in APIS:
        for method in methods_of(api):
            right = Outcome.DENIED if method == "admin" else Outcome.OK
            assert called.ask(api, method, f"Bearer {good}").outcome is right
            for wrong in (elsewhere, changed):
                assert called.ask(api, method, f"Bearer {wrong}").outcome is Outcome.UNAUTHENTICATED
        assert called.ask(api, "predict", f"Bearer {good}", "other").outcome is Outcome.DENIED
    assert "another audience" in called.ask("tf-serving-grpc", "predict", f"Bearer {elsewhere}").text
