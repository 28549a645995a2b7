"""Checks 2 and 13 to 16: PyTorch's sources, pruning, channels and distillation, in .venv-torch."""

import shutil
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace_toolkit.steps.prune import Schedule
from scripts.toolkit_acceptance.scene import Run, Scene, at_most, drop, share

NET = Path(__file__).with_name("net.py")
LABELLED = 100


@dataclass(frozen=True)
class Torch:
    """The network of the checks, its rows and its file formats.

    Attributes:
        module: `file.py:function` that returns the trained network.
        files: The network in other formats: .pt2, TorchScript, weights.
        build: `file.py:function` that returns the untrained network.
        rows: A folder with train.npz and test.npz.
        golden: Whether it is the user's network, with known results.
    """

    module: str
    files: tuple[Path, ...]
    build: str
    rows: Path
    golden: bool


def torch_of(scene: Scene) -> Torch:
    """The user's network, or one that is trained here."""
    scene.python("torch")
    rows = scene.models["cnn"]
    names = ("cnn.pt2", "cnn_torchscript.pt", "cnn_state_dict.pt")
    if scene.given is not None:
        code = scene.given / "more" / "nets.py"
        files = tuple(scene.given / "models" / name for name in names)
        return Torch(f"{code}:trained", files, f"{code}:cnn", rows, golden=True)
    net = rows / "net.py"
    if not net.exists():
        shutil.copyfile(NET, net)
        done = subprocess.run([scene.python("torch"), net], env=scene.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return Torch(f"{net}:trained", tuple(rows / name for name in names), f"{net}:cnn", rows, golden=False)


def torch_sources(scene: Scene) -> str:
    """2: a module, its weights, an exported program and TorchScript give the same answers in ONNX as in PyTorch."""
    held, observed = torch_of(scene), []
    rows = [f"--data={held.rows / 'test.npz'}", "--labels=y"]
    sources: list[tuple[str | Path, list[str]]] = [(held.module, [])]
    sources += [(file, [f"--build={held.build}"] if "state" in file.name else []) for file in held.files]
    for source, more in sources:
        run = scene.headrace("convert", source, "torch", *rows, *more, within="torch")
        assert run.status == 0, run.error
        step = run.step("convert")
        at_most(step["largest_difference"], 1e-4, f"{source}: largest difference")
        assert step["agreement"] == 1.0, source
        assert step["metric"] == run.step("source")["metric"]
        if held.golden:
            at_most(abs(step["metric"] - 0.9981), 1e-4, f"{source}: accuracy beside 0.9981")
        observed.append(f"{Path(str(source)).name} {step['metric']:.4f}")
    return ", ".join(observed)


def zeros(scene: Scene) -> str:
    """13: global L1 pruning leaves the requested zeros, costs little after fine-tuning, and is not called fast."""
    held, observed = torch_of(scene), []
    known = {0.5: 0.978, 0.8: 0.676, 0.9: 0.150}
    for amount in (0.5, 0.8, 0.9):
        found = []
        for finetune in ("", "finetune = { epochs = 8, rate = 5e-4 }\n"):
            run = _steps(scene, held, f'[[step]]\nkind = "prune"\namount = {amount}\n{finetune}')
            step = run.report["steps"][2]
            (zero,) = [note for note in step["notes"] if "weights are zero" in note]
            at_most(
                abs(float(zero.rpartition("(")[2].rstrip("%)")) / 100 - amount),
                0.001,
                "share of zeros, relative to the amount",
            )
            assert not any("fast" in text for text in (step["why"], *step["notes"])), step
            assert 0.85 <= step["time"]["32"] <= 1.15, step["time"]
            found.append(step["metric"])
        if held.golden:
            at_most(abs(found[0] - known[amount]), 0.01, f"{amount}: accuracy beside {known[amount]}")
            assert found[1] >= 0.985, found
        at_most(run.step("source")["metric"] - found[1], 0.02, f"{amount}: accuracy lost after training")
        observed.append(f"{amount} {found[0]:.3f} {found[1]:.3f}")
    return "accuracy as it is and fine-tuned: " + ", ".join(observed)


def schedule(scene: Scene) -> str:
    """14: the polynomial schedule rises as TensorFlow's does."""
    del scene
    plan = Schedule(initial=0.0, final=0.5, begin=0, end=1000)
    found = [plan.share(step) for step in (0, 250, 500, 750, 1000)]
    assert found == [0, 0.2890625, 0.4375, 0.4921875, 0.5], found
    return ", ".join(map(str, found))


def fewer_channels(scene: Scene) -> str:
    """15: half of the channels and int8 leave at most 0.12 of the bytes and 0.3 of the time, for half a point."""
    held = torch_of(scene)
    step = '[[step]]\nkind = "channels"\namount = 0.5\nfinetune = { epochs = 16 }\n'
    run = _steps(scene, held, step + '[[step]]\nkind = "quantize"\nmethod = "static"\n')
    channels, int8 = run.report["steps"][2:4]
    at_most(share(run, channels), 0.3, "bytes with fewer channels")
    at_most(channels["time"]["32"], 0.5, "time with fewer channels")
    at_most(share(run, int8), 0.12, "bytes with int8")
    at_most(int8["time"]["32"], 0.3, "time with int8")
    at_most(drop(run, int8), 0.5, "drop with int8")
    if held.golden:
        assert channels["metric"] >= 0.985, channels["metric"]
    observed = [f"{share(run, one):.2f}, {one['time']['32']:.2f}, {one['metric']:.4f}" for one in (channels, int8)]
    return f"bytes, time, accuracy: {observed[0]}; with int8 {observed[1]}"


def student(scene: Scene) -> str:
    """16: with 100 labels, a distilled student is better than one that is trained alone."""
    held = torch_of(scene)
    if held.golden:
        shutil.copyfile(NET, held.rows / "net.py")
    rows: dict[str, Any] = dict(np.load(held.rows / "train.npz"))
    found: dict[str, list[float]] = {"alone": [], "taught": []}
    for seed in range(3):
        chosen = np.random.default_rng(seed).permutation(len(rows["y"]))[:LABELLED]
        labels = np.full(len(rows["y"]), -1)
        labels[chosen] = rows["y"][chosen]
        np.savez(held.rows / "some.npz", **{**rows, "y": labels})
        np.savez(held.rows / "few.npz", **{name: array[chosen] for name, array in rows.items()})
        for name, keys in (("alone", 'alpha = 0\nepochs = 251\ntrain = "few.npz"'),
                           ("taught", 'alpha = 0.5\ntemperature = 4\nepochs = 20\ntrain = "some.npz"')):  # fmt: skip
            step = f'[[step]]\nkind = "distil"\nstudent = "net.py:small"\n{keys}\n'
            found[name].append(_steps(scene, held, step, seed).report["steps"][2]["metric"])
    alone, taught = (statistics.mean(found[name]) for name in ("alone", "taught"))
    at_most(alone, 0.93, "accuracy alone")
    assert taught >= (0.95 if held.golden else alone + 0.02), (alone, taught)
    return f"alone {alone:.3f}, taught {taught:.3f}, three seeds each"


def _steps(scene: Scene, held: Torch, steps: str, seed: int = 0) -> Run:
    """Applies steps to the network, without publishing it."""
    recipe = held.rows / "recipe.toml"
    recipe.write_text(
        f'seed = {seed}\ntiming_seconds = 1.0\n[model]\nsource = "{held.module}"\n[data]\nrows = "test.npz"\n'
        f'labels = "y"\ntrain = "train.npz"\n[limits]\nmax_drop = 100\n{steps}'
    )
    run = scene.headrace("optimize", recipe, "--dry_run", within="torch")
    assert run.status == 0, run.error or run.out
    return run
