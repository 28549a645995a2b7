"""Recipes: their meaning, and the error for each mistake."""

from pathlib import Path

import pytest

from headrace_server.commands.headrace import main
from headrace_toolkit import Recipe, ToolkitError
from headrace_toolkit.search import Search
from headrace_toolkit.steps.half import Half
from headrace_toolkit.steps.quantize import Quantize
from headrace_toolkit.steps.share import Share
from headrace_toolkit.steps.simplify import Simplify

FULL = """
seed = 7
timing_seconds = 3
[model]
source = "net.py:trained"
inputs = { image = "float32[N,1,8,8]" }
outputs = ["scores"]
[data]
rows = "digits.npz"
labels = "y"
calibration = 100
metric = "metrics.py:mine"
[limits]
max_drop = 1
min_speedup = 2
[output]
base = "/models/digits"
version = 3
target = "vnni"
batch = false
[[step]]
kind = "simplify"
[[step]]
kind = "quantize"
method = "static"
calibrate = "minmax"
keep = ["conv1"]
[[step]]
kind = "half"
[[step]]
kind = "share"
values = 16
[[step]]
kind = "search"
candidates = ["static"]
max_drop = 0.25
"""


def written(folder: Path, text: str) -> Path:
    (folder / "recipe.toml").write_text(text)
    return folder / "recipe.toml"


def test_everything_that_a_recipe_may_say(tmp_path: Path) -> None:
    recipe = Recipe.read(written(tmp_path, FULL))
    assert recipe.source == f"{tmp_path}/net.py:trained"
    assert recipe.source_options.inputs["image"].shape == (None, 1, 8, 8)
    assert recipe.source_options.outputs == ("scores",)
    assert recipe.data.rows == f"{tmp_path}/digits.npz"
    assert (recipe.data.labels, recipe.data.calibration) == ("y", 100)
    assert recipe.data.metric == f"{tmp_path}/metrics.py:mine"
    assert (recipe.limits.max_drop, recipe.limits.min_speedup) == (1.0, 2.0)
    assert (recipe.output.base, recipe.output.version) == ("/models/digits", 3)
    assert (recipe.output.target, recipe.output.batch, recipe.seed, recipe.text) == ("vnni", False, 7, FULL)
    assert recipe.timing_seconds == 3.0
    assert recipe.steps == (
        Simplify(),
        Quantize(method="static", calibrate="minmax", keep=("conv1",)),
        Half(),
        Share(values=16),
        Search(candidates=("static",), max_drop=0.25),
    )


def test_an_empty_recipe_searches(tmp_path: Path) -> None:
    recipe = Recipe.read(written(tmp_path, ""))
    assert recipe == Recipe()
    assert recipe.steps == (Search(),)


def test_calibration_rows_of_their_own(tmp_path: Path) -> None:
    recipe = Recipe.read(written(tmp_path, '[data]\ncalibration = "more.npz"\n'))
    assert recipe.data.calibration == f"{tmp_path}/more.npz"


WRONG = [
    ("[limits]\nmax_drop = -1", "recipe.toml: limits.max_drop must be a finite number of at least 0; was -1"),
    ("[limits]\nmax_drop = nan", "recipe.toml: limits.max_drop must be a finite number of at least 0; was nan"),
    ("[limits]\nmax_drop = true", "recipe.toml: limits.max_drop must be a finite number of at least 0; was True"),
    ("[limits]\nmaxdrop = 1", "recipe.toml: limits: unknown key maxdrop; did you mean max_drop?"),
    ("[limit]\nmax_drop = 1", "recipe.toml: unknown key limit; did you mean limits?"),
    ("limits = 1", "recipe.toml: limits must be a table; was 1"),
    ("seed = 1.5", "recipe.toml: seed must be a whole number from 0 to 4294967295; was 1.5"),
    ("[data]\ncalibration = 0", "recipe.toml: data.calibration must be a whole number of at least 1; was 0"),
    ('[output]\ntarget = "arm"', "recipe.toml: output.target must be one of x86, vnni, arm64, gpu; was 'arm'"),
    ('[output]\nbatch = "no"', "recipe.toml: output.batch must be true or false; was 'no'"),
    ("[model]\nsource = 1", "recipe.toml: model.source must be a string; was 1"),
    ('[model]\ninputs = { x = "f4[N]" }', "input x must be described like float32[N,1,8,8]"),
    ("[model]\ninputs = { x = 1 }", "recipe.toml: model.inputs must be a table of strings; was {'x': 1}"),
    ('[model]\noutputs = "y"', "recipe.toml: model.outputs must be a list of strings; was 'y'"),
    ("[[step]]\nkind = 'quantise'", "recipe.toml: step 1.kind must be one of simplify, quantize"),
    (
        "[[step]]\nkind = 'share'\nvalues = 1",
        "recipe.toml: step 1.values must be a whole number from 2 to 65536; was 1",
    ),
    ("[[step]]\nkind = 'half'\nkep = ['a']", "recipe.toml: step 1: unknown key kep; did you mean keep?"),
    ("[[step]]\nkind = 'quantize'\ncalibrate = 'entropy'", "it is the same as minmax"),
    ("[[step]]\nkind = 'quantize'\npercentile = 101", "must be a finite number from 50 to 100; was 101"),
    (
        "[[step]]\nkind = 'search'\ncandidates = ['int4']",
        "step 1.candidates must be of channels 50, channels 25, static, dynamic",
    ),
    ("[step]\nkind = 'half'", "recipe.toml: step must be written as [[step]] tables"),
    ("[limits", "recipe.toml is not TOML"),
]


@pytest.mark.parametrize(("text", "words"), WRONG, ids=[text.replace("\n", " ") for text, _ in WRONG])
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ToolkitError) as refused:
        Recipe.read(written(tmp_path, text))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"none\.toml: No such file"):
        Recipe.read(tmp_path / "none.toml")


@pytest.mark.parametrize("key", ["source", "base", "rows"])
def test_an_impossible_file_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    tables = {"source": "model", "base": "output", "rows": "data"}
    names = {"source": "a.onnx", "base": "b", "rows": "c.npz"} | {key: "x" * 5000}
    text = "\n".join(f'[{tables[name]}]\n{name} = "{value}"' for name, value in names.items())
    assert main(["optimize", str(written(tmp_path, text))]) == 1
    said = capsys.readouterr().err
    assert said.startswith("headrace: ")
    assert said.count("\n") == 1


def test_nesting_that_is_too_deep(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="is not TOML"):
        Recipe.read(written(tmp_path, "x = " + "[" * 3000 + "]" * 3000))
