"""The API key or token in the environment, which the commands send to a server that asks for one."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from headrace_client.token import TOKEN_VARIABLE
from headrace_server.commands.headrace import main
from headrace_server.config.security import AuthOptions
from headrace_server.security.keys import create_key
from tests.conftest import Run
from tests.support import models

QUICK = ("--concurrency=1", "--seconds=50ms", "--warmup=1ms")
COMMANDS = (
    ["call", "model"],
    ["models"],
    *([["bench", "--model=model", *QUICK]] if find_spec("headrace_native") else []),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
def test_commands_send_it_and_say_so_if_it_is_missing(
    running: Run,
    tmp_path: Path,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = create_key(tmp_path / "keys.json", "shop")
    server = running(models.linear, auth=AuthOptions(keys_file=str(tmp_path / "keys.json")))
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert main([*command, f"--server=localhost:{server.port}"]) == 1
    said = capsys.readouterr().err
    assert "UNAUTHENTICATED: " in said
    assert said.endswith(" (the environment variable HEADRACE_TOKEN holds the API key or the token that is sent)\n")

    monkeypatch.setenv(TOKEN_VARIABLE, key)
    assert main([*command, f"--server=localhost:{server.port}"]) == 0


@pytest.mark.skipif(len(COMMANDS) < 3, reason="headrace-native is not installed")
def test_credentials_on_the_command_line_replace_it(
    running: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = create_key(tmp_path / "keys.json", "shop")
    server = running(models.linear, auth=AuthOptions(keys_file=str(tmp_path / "keys.json")))
    monkeypatch.setenv(TOKEN_VARIABLE, "wrong")
    given = f"--metadata=authorization=Bearer {key}"
    assert main([*COMMANDS[2], f"--server=localhost:{server.port}", given]) == 0
