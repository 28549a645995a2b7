"""Signed and sealed models on running servers, made by the commands, and what is written to disk."""

import base64
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from headrace_protos import ModelServerConfig
from headrace_server.backends import auto
from headrace_server.backends.onnx import loading
from headrace_server.commands.headrace import main
from headrace_server.config.isolation import IsolationOptions
from headrace_server.config.signing import SigningOptions
from headrace_server.errors import ServingError
from tests.conftest import Run
from tests.support import models
from tests.support.calls import floats, predict_request, status_request
from tests.support.running import COMMAND, START_WITHIN, RunningServer, eventually
from tests.support.signing import KeyFiles, key_pair
from tests.support.tools import tool

REQUEST = predict_request({"x": floats([1, 2, 3, 4])})


@pytest.fixture
def signer(tmp_path: Path) -> KeyFiles:
    return key_pair(tmp_path)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "model-keys"
    file.write_text(base64.b64encode(os.urandom(32)).decode())
    return file


def output(server: RunningServer) -> float:
    return float(next(iter(server.caller.predict({"x": floats([1, 2, 3, 4])}).values()))[0, 0])


def test_a_new_version_is_served_once_it_is_signed(running: Run, tmp_path: Path, signer: KeyFiles) -> None:
    base = tmp_path / "m"
    models.linear(base / "1")
    assert main(["sign", str(base / "1"), f"--key={signer.private}"]) == 0
    signing = SigningOptions(signature_keys=(str(signer.public),), require_signatures=True)
    server = running(model_base_path=str(base), file_system_poll_wait_seconds=0.05, signing=signing)
    assert output(server) == 10

    models.linear(base / "2", bias=5)
    assert output(server) == 10, "an unsigned version replaces no other"
    assert main(["sign", str(base / "2"), f"--key={signer.private}"]) == 0
    eventually(lambda: output(server) == 15)


@pytest.mark.parametrize("command", ["sign", "seal"])
def test_a_folder_of_versions_is_refused(
    tmp_path: Path, signer: KeyFiles, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "m"
    for version in ("9", "10"):
        models.linear(base / version)
    (base / "model.toml").touch()
    rest = [f"--key={signer.private}"] if command == "sign" else [str(tmp_path / "out"), "--recipient=age1"]
    before = sorted(tmp_path.rglob("*"))
    assert main([command, str(base), *rest]) == 1
    assert capsys.readouterr().err == (
        f"headrace {command}: {base} is a folder of versions: name one of them, such as {base}/10\n"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unsigned_model_is_not_served_and_the_error_names_it(running: Run, tmp_path: Path, signer: KeyFiles) -> None:
    base = tmp_path / "m"
    models.linear(base / "1")
    signing = SigningOptions(signature_keys=(str(signer.public),), require_signatures=True)
    with pytest.raises(ServingError, match=f"{base / '1'} is not loaded: it is not signed"):
        running(model_base_path=str(base), signing=signing)


def test_no_file_of_an_unsigned_model_reaches_the_runtime(
    running: Run, tmp_path: Path, signer: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions for the next loads are created in advance only if no signature has to be verified first."""
    listed = ModelServerConfig()
    for name in ("a", "b", "c"):
        models.linear(tmp_path / name / "1")
        listed.model_config_list.config.add(name=name, base_path=str(tmp_path / name), model_platform="tensorflow")
    (tmp_path / "models.config").write_text(str(listed))
    monkeypatch.setattr(loading, "open_session", lambda *_: pytest.fail("a file was opened"))
    monkeypatch.setattr(auto, "prepare", lambda *_: pytest.fail("a file was opened"))
    signing = SigningOptions(signature_keys=(str(signer.public),), require_signatures=True)
    with pytest.raises(ServingError, match="is not loaded: it is not signed"):
        running(model_config_file=str(tmp_path / "models.config"), signing=signing)


def test_the_runtimes_errors_name_what_was_found(running: Run, tmp_path: Path, signer: KeyFiles) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"not a model")
    main(["sign", str(version), f"--key={signer.private}"])
    with pytest.raises(ServingError, match=str(version / "model.onnx")) as error:
        running(model_base_path=str(version.parent), signing=SigningOptions(signature_keys=(str(signer.public),)))
    assert "/dev/shm" not in error.value.message


def test_a_sealed_model_with_weights_in_a_file_of_their_own(running: Run, tmp_path: Path, keys: Path) -> None:
    plain, base = tmp_path / "plain", tmp_path / "m"
    models.external_data(plain)
    inputs = {"x": np.ones((1, 512), np.float32)}
    assert main(["seal", str(plain), str(base / "1"), f"--model_keys_file={keys}"]) == 0
    shutil.rmtree(plain)
    server = running(model_base_path=str(base), signing=SigningOptions(model_keys_file=str(keys)))
    assert server.caller.predict(inputs)["y"].shape[0] == 1


PYTHON_MODEL = """
INPUTS = {"x": ("float32", [None, 4])}
OUTPUTS = {"y": ("float32", [None, 1])}

folder = None


def initialize(context):
    global folder
    folder = context.folder


def predict(inputs):
    return {"y": inputs["x"].sum(axis=1, keepdims=True) * float((folder / "factor.txt").read_text())}
"""


def test_a_python_model_that_is_sealed(running: Run, tmp_path: Path, keys: Path) -> None:
    """The model's worker process opens the files through /proc, and reads a file next to `model.py` in each run."""
    plain, base = tmp_path / "plain", tmp_path / "m"
    plain.mkdir()
    (plain / "factor.txt").write_text("3")
    (plain / "model.py").write_text(PYTHON_MODEL)
    assert main(["seal", str(plain), str(base / "1"), f"--model_keys_file={keys}"]) == 0
    shutil.rmtree(plain)
    signing = SigningOptions(model_keys_file=str(keys))
    for workers in (1, 0):
        isolation = IsolationOptions(python_workers=workers)
        assert output(running(model_base_path=str(base), signing=signing, isolation=isolation)) == 30


MARKER = b"this is what nobody may read on the disk"


@pytest.mark.parametrize("kind", ["key", "age"])
def test_a_sealed_model_is_never_unencrypted_on_disk(tmp_path: Path, keys: Path, kind: str) -> None:
    strace = tool("strace")
    plain, base, trace = tmp_path / "plain", tmp_path / "m", tmp_path / "trace"
    models.linear(plain)
    (plain / "notes.txt").write_bytes(MARKER)
    with (plain / "model.onnx").open("ab") as file:  # an unknown field of the model, which ONNX Runtime ignores
        file.write(b"\x92\x3f" + bytes([len(MARKER)]) + MARKER)
    assert main(["seal", str(plain), str(base / "1"), sealing(kind, keys)]) == 0
    shutil.rmtree(plain)

    calls = "trace=write,pwrite64,writev,pwritev,pwritev2,sendfile,copy_file_range,splice,link,linkat,rename,renameat2"
    command = [strace, "-f", "-yy", "-s", "100000", "-e", calls, "-o", str(trace)]
    serve = [COMMAND, "serve", "--check", f"--model_base_path={base}", f"--model_keys_file={keys}"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    subprocess.run([*command, *serve], check=True, capture_output=True, env=environment, timeout=START_WITHIN)

    with_marker = [line for line in trace.read_text(errors="replace").splitlines() if MARKER.decode() in line]
    assert len(with_marker) >= 2, "the model was not opened at all"
    in_memory = re.compile(r"^[^,]*</memfd:" if kind == "key" else r"^[^,]*<(/memfd|pipe):")
    assert [line for line in with_marker if not in_memory.match(line)] == []
    assert not any(MARKER in each.read_bytes() for each in tmp_path.rglob("*") if each.is_file() and each != trace)


def sealing(kind: str, keys: Path) -> str:
    """The option that seals with the key in the file, or for a new identity, which is written to the file."""
    if kind == "key":
        return f"--model_keys_file={keys}"
    pyrage = pytest.importorskip("pyrage", reason="the extra age is not installed")
    identity = pyrage.x25519.Identity.generate()
    keys.write_text(str(identity))
    return f"--recipient={identity.to_public()}"


@pytest.mark.parametrize("kind", ["key", "age"])
def test_a_version_that_does_not_open_leaves_the_old_one_serving(
    running: Run, tmp_path: Path, keys: Path, kind: str
) -> None:
    plain, base = tmp_path / "plain", tmp_path / "m"
    models.linear(plain)
    option = sealing(kind, keys)
    main(["seal", str(plain), str(base / "1"), option])
    server = running(
        model_base_path=str(base),
        file_system_poll_wait_seconds=0.05,
        signing=SigningOptions(model_keys_file=str(keys)),
    )
    shutil.rmtree(plain)
    models.linear(plain, bias=5)
    main(["seal", str(plain), str(tmp_path / "new"), option])
    whole = (tmp_path / "new" / "model.sealed").read_bytes()
    (tmp_path / "new" / "model.sealed").write_bytes(whole[:-1])
    (tmp_path / "new").rename(base / "2")
    eventually(lambda: "changed or truncated" in str(server.caller.call(status_request())))
    assert output(server) == 10
    (base / "2" / "model.sealed").write_bytes(whole)
    eventually(lambda: output(server) == 15)


def test_keys_that_are_missing(running: Run, tmp_path: Path, keys: Path) -> None:
    plain, base, other = tmp_path / "plain", tmp_path / "m", tmp_path / "other-keys"
    models.linear(plain)
    main(["seal", str(plain), str(base / "1"), f"--model_keys_file={keys}"])
    other.write_text(base64.b64encode(os.urandom(32)).decode())
    with pytest.raises(ServingError, match=r"model\.sealed: it is sealed with the key .*, which the server does not"):
        running(model_base_path=str(base), signing=SigningOptions(model_keys_file=str(other)))
    with pytest.raises(ServingError, match="is sealed: --model_keys_file"):
        running(model_base_path=str(base))


def test_required_signatures_need_keys(running: Run) -> None:
    with pytest.raises(ServingError, match="--require_signatures needs --signature_keys"):
        running(models.linear, signing=SigningOptions(require_signatures=True))
