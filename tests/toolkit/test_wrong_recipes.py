"""No recipe, however wrong, prints a traceback, runs code from a data file, or leaves anything under the base path."""

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from headrace_server.commands.headrace import main
from headrace_toolkit import publish
from tests.support.running import COMMAND
from tests.toolkit import models

RECIPE: dict[str, dict[str, str]] = {
    "": {"seed": "0", "timing_seconds": "0.01", "load": "0"},
    "[model]": {"source": '"mlp.onnx"', "inputs": "{}", "outputs": "[]", "build": '""', "trust_pickle": "false"},
    "[data]": {
        "rows": '"rows.npz"',
        "labels": '"y"',
        "calibration": "16",
        "train": '""',
        "metric": '"accuracy"',
        "output": '""',
    },
    "[limits]": {"max_drop": "50", "min_speedup": "0.0"},
    "[output]": {"base": '"base/m"', "version": "0", "target": '"x86"', "batch": "true"},
    "[[step]]": {"kind": '"share"', "values": "256", "smallest": "64"},
}
"""For each table of a recipe, its keys with valid values."""

WRONG = (
    "-1", "0", "1e308", "nan", "-inf", "99999999999999999999", "9" * 5000, "0x" + "f" * 5000, "true", '""',
    '"\\u0000"', '"a\\nb\\u001b[2J"', '"nothing"', '"../../x"', '"."', '"rows.npz"', '"pipe.npz"', '"loop.npz"',
    '"a:b"', '"code.py:nothing"', '"code.py:fails"', '"code.py:leaves"', "[]", "[1, [2]]", '["x", "x"]', "{}",
    "{ x = 1 }", "1979-05-27", '"' + "x" * 5000 + '"',
)  # fmt: skip

PARTS = 6
"""The number of tests that share the wrong values; each key meets a third of the values."""

TEXTS = (
    "", "[", "step = 1", "[[model]]", "[step]", "[model.source]\nx = 1", "[[step]]", "[[step]]\nkind = []", "a.b.c = 1",
    '"a\\nb" = 1', "[data]\nrows = 'rows.npz'", "\x00", "[model]\nsource = 'recipe.toml'", "[model]\nsource = '.'",
    "\ufeff[model]", "[[step]]\nkind = 'prune'\namount = 'x'", "[[step]]\nkind = 'search'\ncandidates = [1]",
    "[model]\n" * 2, "[[step]]\nkind = 'quantize'\nkeep = [1]", "[[step]]\nkind = 'distil'",
    "x = " + "[" * 3000 + "]" * 3000, "x = " + "{ y = " * 500 + "1" + " }" * 500, ".".join("abc" * 400) + " = 1",
    "[model]\nsource = 'recipe.toml'\n[output]\nbase = 'base/m'", "seed = " + "9" * 5000,
)  # fmt: skip

CODE = """
import sys

def fails():
    raise RuntimeError("one\\ntwo")

def leaves():
    sys.exit(3)
"""


def text_of(**changes: str) -> str:
    """The recipe with some keys changed: `text_of(seed="-1")`."""
    return "\n".join(
        "\n".join([table, *(f"{key} = {changes.get(key, value)}" for key, value in keys.items())])
        for table, keys in RECIPE.items()
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a model, rows, a file of code, a named pipe, and a link that leads to itself."""
    digits = models.digits()
    folder = tmp_path / "a" / "b"  # a name with ../.. stays in the test's own folder
    folder.mkdir(parents=True)
    models.mlp(folder / "mlp.onnx", width=16)
    np.savez(folder / "rows.npz", x=digits.test_x[:48].reshape(-1, 64).astype(np.float32), y=digits.test_y[:48])
    (folder / "code.py").write_text(CODE)
    os.mkfifo(folder / "pipe.npz")
    (folder / "loop.npz").symlink_to("loop.npz")
    monkeypatch.chdir(folder)
    return folder


def run(place: Path, text: str) -> int:
    """Runs a recipe and returns the exit status."""
    (place / "recipe.toml").write_text(text, encoding="utf-8")
    try:
        return main(["optimize", "recipe.toml"])
    except SystemExit as end:
        return int(end.code or 0)


def check_refusal(place: Path, said: str, table: str, what: object) -> None:
    """Asserts that a failed run said so in one line, or in its table, and left nothing under the base path."""
    assert "not expect" not in said, (what, said)  # the message for unexpected errors
    if "nothing is published" not in table and what != "leaves":
        assert said.startswith("headrace: "), (what, said)
        assert said.count("\n") == 1, (what, said)
        assert said.rstrip("\n").isprintable(), (what, said)
    assert not (place / "base").exists(), what


def changes(part: int) -> Iterator[tuple[str, str]]:
    """Keys and wrong values."""
    for row, key in enumerate(key for keys in RECIPE.values() for key in keys):
        if row % PARTS == part:
            yield from ((key, value) for column, value in enumerate(WRONG) if (row + column) % 3 == 0)


def test_the_recipe_itself_is_right(place: Path) -> None:
    assert run(place, text_of()) == 0
    assert (place / "base" / "m" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize("part", range(PARTS))
def test_wrong_values_of_every_key(place: Path, capsys: pytest.CaptureFixture[str], part: int) -> None:
    for key, value in changes(part):
        status = run(place, text_of(**{key: value}))
        printed = capsys.readouterr()
        if status:
            check_refusal(place, printed.err, printed.out, "leaves" if "leaves" in value else (key, value[:50]))
        else:
            assert printed.err == ""
            subprocess.run(["rm", "-rf", place / "base"], check=True)


@pytest.mark.parametrize("text", TEXTS, ids=[repr(text[:30]) for text in TEXTS])
def test_wrong_texts(place: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert run(place, text) == 1
    printed = capsys.readouterr()
    check_refusal(place, printed.err, printed.out, text)


def test_bytes_that_are_no_recipe(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "recipe.toml").write_bytes(b"[model]\nsource = '\xff'")
    assert main(["optimize", "recipe.toml"]) == 1
    check_refusal(place, capsys.readouterr().err, "", "bytes")
    (place / "folder.toml").mkdir()
    for name in ("folder.toml", "nowhere.toml", "b\udcff.toml"):
        assert main(["optimize", name]) == 1
        check_refusal(place, capsys.readouterr().err, "", name)


BASES = [
    ("dangling", "dangling cannot be written: it is a link to nowhere, which cannot be resolved"),
    ("loop.npz", "it is a link to loop.npz, which cannot be resolved"),
    ("mlp.onnx", "mlp.onnx is not a folder"),
    ("mlp.onnx/m", "mlp.onnx is not a folder"),
    ("models/7", "models/7 contains a model.onnx, and must be a folder of numbered versions: name the folder above it"),
    ("models/8", "models/8 contains a model.plan, and must be a folder of numbered versions: name the folder above it"),
    ("full", "full has the version 9223372036854775807, the highest there can be"),
    ("/dev/null/m", "/dev/null is not a folder"),
    ("/proc/m", "/proc/m cannot be written"),
]


@pytest.mark.parametrize(("base", "words"), BASES)
def test_wrong_base_paths(place: Path, capsys: pytest.CaptureFixture[str], base: str, words: str) -> None:
    (place / "dangling").symlink_to("nowhere")
    for name in ("7/model.onnx", "8/model.plan"):
        (place / "models" / name).parent.mkdir(parents=True)
        (place / "models" / name).write_bytes(b"")
    (place / "full" / "9223372036854775807").mkdir(parents=True)
    before = sorted(place.rglob("*"))
    assert run(place, text_of(base=f'"{base}"')) == 1
    said = capsys.readouterr().err
    assert words in said
    check_refusal(place, said, "", base)
    assert sorted(place.rglob("*")) == sorted([*before, place / "recipe.toml"])


def test_a_base_path_behind_a_link_and_odd_names_in_it(place: Path) -> None:
    (place / "real" / "\u00b2").mkdir(parents=True)  # a digit for str.isdigit, and no number for int
    (place / "real" / "3").mkdir()
    (place / "link").symlink_to("real")
    assert run(place, text_of(base='"link"')) == 0
    assert (place / "real" / "4" / "model.onnx").is_file()


OUTPUTS = ["--json=nowhere/r.json", "--png=.", "--html=rows.npz/r.html", "--sign=nowhere.key", "--sign=rows.npz"]


@pytest.mark.parametrize("flag", OUTPUTS)
def test_output_files_are_checked_before_publishing(place: Path, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    (place / "recipe.toml").write_text(text_of())
    assert main(["optimize", "recipe.toml", flag]) == 1
    check_refusal(place, capsys.readouterr().err, "", flag)


SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(params=SIGNALS)
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal with its default handler: under nohup, the tests' process ignores SIGHUP."""
    number: signal.Signals = request.param
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield number
    signal.signal(number, before)


@pytest.mark.parametrize("moment", ["rows", "metric", "publishing", "import"])
def test_signals_at_any_moment(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals, moment: str
) -> None:
    send = f"signal.raise_signal({int(number)})"
    (place / "moment.py").write_text(
        f"import signal\nimport numpy as np\n\ndef rows():\n    {send}\n\ndef metric(outputs, labels):\n    {send}\n"
    )
    (place / "broken.py").write_text(
        f"import signal\ntry:\n    {send}\nexcept BaseException:\n    raise ImportError('from C code')\n"
    )
    changes = {"rows": {"rows": '"moment.py:rows"'}, "metric": {"metric": '"moment.py:metric"'}}
    changes["import"] = {"rows": '"broken.py:rows"'}
    if moment == "publishing":
        monkeypatch.setattr(publish, "_sync", lambda _: signal.raise_signal(number))
    before = signal.getsignal(number)
    assert run(place, text_of(**changes.get(moment, {}))) == SIGNALS[number]
    assert capfd.readouterr().err == ("headrace: interrupted\n" if number == signal.SIGINT else "")
    assert not (place / "base").exists()
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("limit", [0, 6000], ids=["no file at all", "nearly all of the model"])
def test_disks_that_fill_up(place: Path, limit: int) -> None:
    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    (place / "recipe.toml").write_text(text_of())
    temporary = place / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(
        [COMMAND, "optimize", "recipe.toml"],
        env=environment, preexec_fn=limit_files, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    check_refusal(place, done.stderr, "", limit)
    assert os.listdir(temporary) == []


@pytest.mark.usefixtures("place")
def test_a_closed_output_pipe() -> None:
    for into, words in (("/dev/full", "No space left on device"), ("| true", ""), ("&-", "")):
        where = into if into.startswith("|") else f">{into}"
        command = f"'{COMMAND}' convert mlp.onnx base --timing_seconds=0.01 {where}"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert words in done.stderr
        assert done.stderr.count("\n") <= 1
