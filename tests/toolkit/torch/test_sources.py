"""PyTorch models in all their forms give the same answers in ONNX, for any number of rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_toolkit import Data, ToolkitError, convert, load
from headrace_toolkit.result import Result
from headrace_toolkit.sources.base import SourceOptions, Trainable
from headrace_toolkit.specs import read_spec

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-torch runs these tests")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

NET = '''
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3)
        self.drop = nn.Dropout(0.5)
        self.output = nn.Linear(4 * 36, 10)

    def forward(self, image):
        return self.output(self.drop(torch.relu(self.convolution(image)).flatten(1)))

def net():
    torch.manual_seed(0)
    return Net()

class Words(nn.Module):
    """Two inputs of words, of as many as there are; answers by name, one of which an operator's output has, too."""
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 8)

    def forward(self, ids, mask):
        known = self.table(ids) * mask.unsqueeze(-1)
        return {"embedding": known.sum(1) / mask.sum(1, keepdim=True), "length": mask.sum(1)}

def words():
    torch.manual_seed(0)
    return Words()

class Halves(nn.Module):
    def forward(self, x):
        return x.view(2, -1).sum(1)

class Mean(nn.Module):
    def forward(self, x):
        return x - x.mean(0)

class Data(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

class Rows(nn.Module):
    def forward(self, x):
        if x.shape[0] > 2:
            return x * 2
        return x

class Nested(nn.Module):
    def forward(self, x):
        return [x, [x]]

def script():
    return torch.jit.trace(net().eval(), torch.zeros(2, 1, 8, 8))

def number():
    return 3
'''

IMAGES = np.random.default_rng(0).random((24, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.py, and its network as a state dict, a checkpoint, safetensors, programs, TorchScript and a whole module."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "net.py").write_text(NET)
    from headrace_toolkit import user_code

    module = user_code.call(f"{folder / 'net.py'}:net").eval()
    torch.save(module.state_dict(), folder / "weights.pt")
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, folder / "checkpoint.pt")
    from safetensors.torch import save_file  # type: ignore[import-not-found,unused-ignore]

    save_file(module.state_dict(), folder / "weights.safetensors")
    x = torch.from_numpy(IMAGES[:2])
    varying = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=varying), folder / "net.pt2")
    torch.export.save(torch.export.export(module, (x,)), folder / "static.pt2")
    torch.jit.save(user_code.call(f"{folder / 'net.py'}:script"), folder / "script.pt")
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), folder / "whole.pt")
    return folder


def converted(source: str | Path, rows: Mapping[str, Any], **options: Any) -> Result:
    source_options = SourceOptions(example=rows, **options)
    return convert(load(source, source_options), Data("rows", "", rows))


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("net.py:net", ""),
        ("weights.pt", "net.py:net"),
        ("checkpoint.pt", "net.py:net"),
        ("weights.safetensors", "net.py:net"),
        ("net.pt2", ""),
        ("script.pt", ""),
    ],
)
def test_one_network_in_all_forms(folder: Path, name: str, build: str) -> None:
    result = converted(folder / name, {"picture": IMAGES}, build=str(folder / build) if build else "")
    assert not result.failed
    assert result.report.source.kind == "torch"
    line = result.report.lines[1]
    assert line.largest_difference is not None
    assert line.largest_difference < 1e-5
    assert line.agreement == 1.0
    assert list(result.signature.inputs) == ["picture"]  # the user's name for it
    assert list(result.signature.outputs) == ["output"]
    assert result.rows_verdict.finding == "independent"
    content = result.model.read_bytes()
    assert str(folder).encode() not in content  # torch records the origin of each operator
    assert b"site-packages" not in content


def test_training_mode_is_turned_off(folder: Path) -> None:
    result = converted(f"{folder / 'net.py'}:net", {"image": IMAGES})
    assert "the module was in training mode; it was exported in evaluation mode" in result.report.notes
    assert result.report.lines[1].differing == 0.0  # dropout would have made all of them differ


def test_two_inputs_of_varying_length_and_named_answers(folder: Path) -> None:
    draws = np.random.default_rng(0)
    rows = {"mask": np.ones((12, 5), np.float32), "ids": draws.integers(0, 50, (12, 5))}
    specs = {"ids": read_spec("ids", "int64[N,T]"), "mask": read_spec("mask", "float32[N,T]")}
    result = converted(f"{folder / 'net.py'}:words", rows, inputs=specs)
    assert [spec.dims for spec in result.signature.inputs.values()] == [("N", "T"), ("N", "T")]
    assert list(result.signature.outputs) == ["embedding", "length"]
    assert result.report.lines[1].differing == 0.0


def test_a_program_of_fixed_rows_says_how_to_export_it_again(folder: Path) -> None:
    result = converted(folder / "static.pt2", {"image": IMAGES})
    assert any("requests will run one by one" in warning for warning in result.report.warnings)
    assert any("dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)" in note for note in result.report.notes)


def test_a_batch_that_is_mixed_is_refused(folder: Path) -> None:
    rows = {"x": np.random.default_rng(0).random((8, 4)).astype(np.float32)}
    with pytest.raises(ToolkitError, match=r"net\.py:Mean mixes the rows of a batch"):
        converted(f"{folder / 'net.py'}:Mean", rows)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Data", r"net\.py:Data cannot be exported to ONNX: .*data-dependent.* \(net\.py, line \d+\)"),
        ("Rows", r"net\.py:Rows: converted to ONNX, it answers 100% of the rows differently from PyTorch"),
        ("Nested", r"net\.py:Nested: its answer output_1 is a list; it must be a tensor"),
        ("number", r"net\.py:number is a builtins\.int; it must be a PyTorch module"),
        ("words", r"net\.py:words: its forward takes ids, mask, but the data has x, z: name the arrays after the a"),
    ],
)
def test_models_that_cannot_be_converted(folder: Path, name: str, text: str) -> None:
    rows = {"x": np.random.default_rng(0).random((8, 4)).astype(np.float32)}
    if name == "words":
        rows["z"] = rows["x"]
    with pytest.raises(ToolkitError, match=text) as refusal:
        converted(f"{folder / 'net.py'}:{name}", rows)
    assert len(str(refusal.value).splitlines()) == 1


def test_an_output_of_fixed_rows_runs_one_by_one(folder: Path) -> None:
    result = converted(f"{folder / 'net.py'}:Halves", {"x": np.ones((8, 4), np.float32)})
    assert any("requests will run one by one" in warning for warning in result.report.warnings)
    assert not result.rows_verdict.batched


def test_undescribed_inputs(folder: Path) -> None:
    with pytest.raises(ToolkitError, match=r"does not record its inputs: .* --signature=image=float32\[N,1,8,8\]"):
        load(f"{folder / 'net.py'}:net")


def test_weights_that_do_not_fit(folder: Path) -> None:
    example = {"image": IMAGES}
    with pytest.raises(ToolkitError, match="weights without their module: say what makes it with --build"):
        load(folder / "weights.pt", SourceOptions(example=example))
    build = f"{folder / 'net.py'}:words"
    with pytest.raises(ToolkitError) as refusal:
        load(folder / "weights.pt", SourceOptions(build=build, example=example))
    assert str(refusal.value) == (
        f"{folder / 'weights.pt'} does not fit the module of {build}: it lacks table.weight; "
        "it has extra weights: convolution.weight, convolution.bias, output.weight and 1 more"
    )


def test_a_whole_module_is_loaded_only_with_trust(folder: Path) -> None:
    with pytest.raises(ToolkitError, match="runs any code that its author put into it"):
        load(folder / "whole.pt", SourceOptions(example={"image": IMAGES}))
    source = load(folder / "whole.pt", SourceOptions(example={"image": IMAGES}, trust_pickle=True))
    assert source.origin.framework.startswith("PyTorch 2.")


def test_only_a_module_can_be_trained(folder: Path) -> None:
    source_options = SourceOptions(example={"image": IMAGES}, build=f"{folder / 'net.py'}:net")
    assert isinstance(load(folder / "weights.pt", source_options), Trainable)
    assert not isinstance(load(folder / "net.pt2", SourceOptions(example={"image": IMAGES})), Trainable)
