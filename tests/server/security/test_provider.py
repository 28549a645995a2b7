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
from tests.conftest import ROOT, Run
from tests.server.security.calls import APIS, Outcome, methods_of, target_of
from tests.support import models
from tests.support.calls import MODEL
from tests.support.ports import free_port

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


def test_every_api_takes_its_tokens(running: Run, issuer: str, tmp_path: Path) -> None:
    policy, port = tmp_path / "policy.toml", free_port()
    policy.write_text('[[rules]]\nwho = ["jwt-group:machines"]\nmodels = ["mod*"]\n')
    auth = AuthOptions(jwt_issuer=issuer, jwt_audience=(AUDIENCE,), jwt_name_claim="client", policy_file=str(policy))
    server = running(models.linear, rest_api_port=port, auth=auth)
    target = target_of(server.port, port)
    good, elsewhere = token(issuer), token(issuer, "https://elsewhere.example")
    changed = good[:-8] + ("A" if good[-8] != "A" else "B") + good[-7:]

    for api in APIS:
        for method in methods_of(api):
            right = Outcome.DENIED if method == "admin" else Outcome.OK
            assert APIS[api](target, method, MODEL, f"Bearer {good}").outcome is right
            for wrong in (elsewhere, changed):
                refused = APIS[api](target, method, MODEL, f"Bearer {wrong}")
                assert refused.outcome is Outcome.UNAUTHENTICATED
        assert APIS[api](target, "predict", "other", f"Bearer {good}").outcome is Outcome.DENIED
    assert "another audience" in APIS["tf-serving-grpc"](target, "predict", MODEL, f"Bearer {elsewhere}").text
