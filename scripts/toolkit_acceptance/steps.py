"""Checks 7 to 12, 18, 22 and 24: the results of quantization, half floats, weight sharing and the search."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from scripts.toolkit_acceptance.scene import Scene, Skipped, at_most, drop, share

ALL = ("mlp", "cnn", "resnet", "mobile")


def libraries(scene: Scene) -> str:
    """1: the libraries without headrace reach the accuracy, size and time that the other checks assume."""
    if scene.given is None:
        raise Skipped("needs --models: a folder with baseline.py, which compares the libraries with known results")
    words = [sys.executable, str(scene.given / "baseline.py")]
    done = subprocess.run(words, cwd=scene.folder, env=scene.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    return done.stdout.splitlines()[-1]


def search_of_a_perceptron(scene: Scene) -> str:
    """7: dynamic int8 is kept for matrix products."""
    run = scene.optimize("mlp")
    kept = run.step("dynamic int8")
    assert kept["kept"], kept["why"]
    at_most(share(run, kept), 0.27, "bytes")
    at_most(kept["time"]["32"], 0.85, "time of 32 rows")
    at_most(drop(run, kept), 0.5, "drop")
    return f"{share(run, kept):.2f} of the bytes, {kept['time']['32']:.2f} of the time, drop {drop(run, kept):.2f}"


def search_of_convolutions(scene: Scene) -> str:
    """8: static int8 is kept for convolutions, and dynamic int8 is skipped, with the reason."""
    observed = []
    for name in ("cnn", "resnet"):
        run = scene.optimize(name)
        kept = run.step("static int8")
        assert kept["kept"], kept["why"]
        at_most(share(run, kept), 0.35, "bytes")
        at_most(kept["time"]["32"], 0.9, "time of 32 rows")
        at_most(drop(run, kept), 0.5, "drop")
        assert "slower in dynamic int8" in run.step("dynamic int8")["why"]
        observed.append(f"{name} {share(run, kept):.2f}, {kept['time']['32']:.2f}, {drop(run, kept):.2f}")
    return "; ".join(observed)


def search_of_depthwise_convolutions(scene: Scene) -> str:
    """9: 8-bit weights that saturate must not win; 7-bit ones do not saturate."""
    run = scene.optimize("mobile", "--min_speedup=0.5")
    kept = next(step for step in run.report["steps"][2:] if step["kept"])
    at_most(drop(run, kept), 0.5, "drop")
    return f"{kept['name']}: drop {drop(run, kept):.2f}"


def one_bright_row(scene: Scene) -> str:
    """10: one of 256 rows, 50 times too bright, spoils minmax calibration but not percentile."""
    folder = scene.models["resnet"]
    held = dict(np.load(folder / "train.npz"))
    (name,) = set(held) - {"y"}
    bright = held[name][:256].copy()
    bright[0] *= 50
    rows: dict[str, np.ndarray] = {name: bright}
    np.savez(scene.folder / "bright.npz", **rows)  # type: ignore[arg-type]
    drops = {}
    for calibrate in ("percentile", "minmax"):
        step = f'[[step]]\nkind = "quantize"\nmethod = "static"\ncalibrate = "{calibrate}"\n'
        recipe = scene.folder / "bright.toml"
        recipe.write_text(
            f'[model]\nsource = "{folder / "model.onnx"}"\n[data]\nrows = "{folder / "test.npz"}"\nlabels = "y"\n'
            f'calibration = "{scene.folder / "bright.npz"}"\n[limits]\nmax_drop = 100\n{step}'
        )
        run = scene.headrace("optimize", recipe, "--dry_run")
        assert run.status == 0, run.error
        drops[calibrate] = drop(run, run.step("static int8"))
        assert any("calibration row 0" in note for note in run.step("static int8")["notes"])
    at_most(drops["percentile"], 1.0, "drop with percentile")
    return f"drop {drops['percentile']:.2f} with percentile, {drops['minmax']:.2f} with minmax"


def half(scene: Scene) -> str:
    """11: half floats halve the bytes, and no speed-up is claimed."""
    observed = []
    for name in ALL:
        run = scene.steps(name, '[[step]]\nkind = "half"\n')
        step = run.step("half")
        at_most(share(run, step), 0.53, f"{name}: bytes")
        assert share(run, step) >= 0.49, share(run, step)
        at_most(step["largest_difference"], 0.03, f"{name}: largest difference")
        assert not any("fast" in text for text in (step["why"], *step["notes"])), step
        observed.append(f"{name} {share(run, step):.2f}")
    return ", ".join(observed) + " of the bytes"


def sharing(scene: Scene) -> str:
    """12: weight sharing makes files smaller, and nothing faster or slower."""
    observed = []
    for values, size, loss in ((256, 0.38, 0.5), (16, 0.23, 1.2)):
        for name in ALL:
            run = scene.steps(name, f'[[step]]\nkind = "share"\nvalues = {values}\n')
            step = run.step("k-means")
            at_most(share(run, step), size, f"{name}, {values} values: bytes")
            if scene.given is not None:  # random weights suffer more from 4 bits
                at_most(drop(run, step), loss, f"{name}, {values} values: drop")
            assert 0.85 <= step["time"]["32"] <= 1.15, f"{name}, {values} values: time {step['time']['32']}"
        observed.append(f"{values} values: at most {size:g}")
    return ", ".join(observed) + " of the bytes, times 0.85 to 1.15"


def sentence_encoder(scene: Scene) -> str:
    """18: for a sentence encoder, dynamic int8 is kept, and static int8 is refused by the limit."""
    if scene.encoder is None:
        raise Skipped("needs --encoder: a folder with model.onnx and rows.npz of a sentence encoder")
    words = [f"--data={scene.encoder / 'rows.npz'}", "--metric_output=sentence_embedding", "--max_drop=1.5"]
    run = scene.headrace("optimize", scene.encoder / "model.onnx", "base", "--dry_run", *words)
    assert run.status == 0, run.error or run.out
    kept, static = run.step("dynamic int8"), run.step("static int8")
    assert kept["kept"], kept["why"]
    assert "loses" in static["why"], static["why"]
    at_most(share(run, kept), 0.265, "bytes")
    at_most(kept["time"]["32"], 0.8, "time")
    assert kept["metric"] >= 0.985, kept["metric"]
    return (
        f"{share(run, kept):.2f} of the bytes, {kept['time']['32']:.2f} of the time, mean cosine {kept['metric']:.3f}; "
        f"static {static['metric']:.2f}"
    )


def same_bytes(scene: Scene) -> str:
    """22: the same seed gives the same bytes."""
    folder = scene.models["cnn"]
    for base in ("first", "second"):
        run = scene.headrace("optimize", folder / "model.onnx", base, f"--data={folder / 'test.npz'}", "--labels=y")
        assert run.status == 0, run.error or run.out
    first, second = ((scene.folder / base / "1" / "model.onnx").read_bytes() for base in ("first", "second"))
    assert first == second
    return f"{len(first)} bytes, twice"


_QUANTIZES = """
import resource
import sys
from pathlib import Path
from headrace_toolkit import Data
from headrace_toolkit.steps.base import Work
from headrace_toolkit.steps.quantize import Quantize
model, rows, folder = map(Path, sys.argv[1:])
Quantize(method="static").run(Work(model=model, folder=folder, calibration=Data.read(rows)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def memory(scene: Scene) -> str:
    """24: calibration on 20,000 rows uses less than a gigabyte."""
    folder, target = scene.models["resnet"], scene.folder / "many"
    target.mkdir()
    held = dict(np.load(folder / "train.npz"))
    (name,) = set(held) - {"y"}
    many: dict[str, np.ndarray] = {name: np.resize(held[name], (20_000, *held[name].shape[1:]))}
    np.savez(scene.folder / "many.npz", **many)  # type: ignore[arg-type]
    files = [folder / "model.onnx", scene.folder / "many.npz", target]
    words = [sys.executable, "-c", _QUANTIZES, *map(str, files)]
    peak = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    at_most(peak / 1e6, 1000, "peak in MB")
    assert Path(target / "model.onnx").exists()
    return f"peak {peak / 1e6:.0f} MB, {many[name].nbytes / 1e6:.0f} of them for the rows"
