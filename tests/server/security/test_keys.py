"""API keys: the file and the command."""

import json
import stat
import time
from pathlib import Path

import pytest

from headrace_server.commands.headrace import main
from headrace_server.errors import ServingError
from headrace_server.security.keys import check_key, create_key, read_keys, revoke_keys
from headrace_server.security.principal import Refused


def test_a_key_is_good_until_it_expires_or_is_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    one, other = create_key(file, "shop"), create_key(file, "shop", expires=1000)

    assert check_key(one, read_keys(file), now=2000).name == "key:shop"
    assert check_key(other, read_keys(file), now=999).expires == 1000
    with pytest.raises(Refused, match="expired"):
        check_key(other, read_keys(file), now=1000)
    assert [key.id for key in revoke_keys(file, "shop")] == [one.split("_")[1], other.split("_")[1]]
    with pytest.raises(Refused, match="revoked"):
        check_key(one, read_keys(file), now=999)


def test_the_state_of_a_key_is_reported_only_to_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = create_key(file, "shop", expires=1)
    _, identity, secret = key.split("_", 2)

    for wrong in (f"hrk_{identity}_{'A' * 43}", f"hrk_{'0' * 12}_{secret}", f"hrk_{identity}_", "hrk_", key + "A", ""):
        with pytest.raises(Refused, match="the API key is not valid"):
            check_key(wrong, read_keys(file), now=2)


def test_the_file_holds_no_secret_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = create_key(file, "shop")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key.split("_", 2)[2] not in file.read_text()
    file.chmod(0o640)
    create_key(file, "other")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640, "the server's group may still read it"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["keys.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "as `headrace keys` writes it: Expecting value: line 1 column 1 (char 0)"),
        ("{}", "as `headrace keys` writes it: keys is missing"),
        ("[]", ""),
        ('{"keys": 1}', ""),
        ('{"keys": [{"id": "a"}]}', ""),
        ('{"keys": [{"id":"a","name":"b","hash":"","created":0}]}', "the key 'a' has no name, or no hash"),
    ],
)
def test_an_invalid_file(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)

    with pytest.raises(ServingError, match=str(file)) as refused:
        read_keys(file)
    assert refused.value.message.endswith(said)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "keys.json")
    assert main(["keys", "create", file, "shop", "--days=30"]) == 0
    key = capsys.readouterr().out.strip()
    assert main(["keys", "create", file, "trainer"]) == 0
    capsys.readouterr()

    assert main(["keys", "revoke", file, "trainer"]) == 0
    assert " of trainer" in capsys.readouterr().out
    assert main(["keys", "list", file]) == 0
    head, shop, trainer = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "NAME", "CREATED", "STATE"]
    assert key.split("_")[1] in shop
    assert "good until" in shop
    assert "revoked" in trainer
    assert key not in shop
    assert check_key(key, read_keys(Path(file)), now=time.time()).name == "key:shop"


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["create", "{}", "a b"], "the name must begin with a letter or digit"),
        (["revoke", "{}", "nobody"], "no key with the ID or the name 'nobody'"),
        (["list", "{}-not-there"], "No such file"),
        (["create", "{}-no-folder/keys.json", "shop"], "No such file"),
    ],
)
def test_arguments_that_the_command_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], culprit: str
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": []}))

    assert main(["keys", *(each.format(file) for each in arguments)]) == 1
    assert culprit in capsys.readouterr().err
