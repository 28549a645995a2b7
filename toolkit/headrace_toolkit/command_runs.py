"""Runs `headrace convert`, `optimize`, `report`, `explain`, `tune` and `package`."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace_toolkit.command_checks import check_files, check_version
from headrace_toolkit.data import Data
from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.pipeline import optimize
from headrace_toolkit.progress import Bars, Progress, Silent
from headrace_toolkit.publish import check_base, check_key
from headrace_toolkit.recipe import DataOptions, Limits, Output, Recipe
from headrace_toolkit.report import Report
from headrace_toolkit.result import Result
from headrace_toolkit.sources.auto import load
from headrace_toolkit.sources.base import Source, SourceOptions
from headrace_toolkit.specs import read_spec

Values = dict[str, Any]

_DATA_FLAGS = ("rows", "labels", "calibration", "train", "metric", "output")


def run_convert(given: Values) -> int:
    """Runs `headrace convert` and returns its exit status.

    Raises:
        ToolkitError: The model cannot be converted or published.
    """
    return _run(replace(_recipe(given), steps=()), given)


def run_optimize(given: Values) -> int:
    """Runs `headrace optimize` and returns its exit status: 1 if nothing meets the limits.

    Raises:
        ToolkitError: The model cannot be converted, the recipe cannot be carried out, or the version cannot be
            published.
    """
    if Path(given["source"]).suffix == ".toml":
        return _run(_over_recipe(Recipe.read(given["source"]), given), given)
    if "base" not in given:
        raise ToolkitError(f"{given['source']}: name the model's folder of numbered versions, as in /models/digits")
    return _run(_recipe(given), given)


def run_report(given: Values) -> int:
    """Runs `headrace report` and returns its exit status: 1 if a file differs from the one named in its card.

    Raises:
        ToolkitError: A version cannot be read or run.
    """
    from headrace_toolkit.beside import compare_versions

    check_files(given)
    options = _data_options(given)
    data = Data.read(options.rows, options.labels) if options.rows else None
    with _progress() as progress:
        recipe = Recipe(data=options, **_run_options(given))
        report = compare_versions(given["versions"], data, recipe, progress)
    _write_reports(report, given)
    print(report.table())
    return 1 if report.changed_files else 0


def run_explain(given: Values) -> int:
    """Runs `headrace explain` and returns its exit status.

    Raises:
        ToolkitError: There are no rows, or the version cannot be read or run.
    """
    from headrace_toolkit.explain import explain

    check_files(given)
    options = _data_options(given)
    if not options.rows:
        raise ToolkitError("explain needs rows to shuffle: give some with --data")
    data = Data.read(options.rows, options.labels)
    recipe = Recipe(data=options, **_run_options(given))
    with _progress() as progress:
        found = explain(given["version"], data, recipe, progress, given.get("repeats", 5))
    if "json" in given:
        _write(given["json"], (json.dumps(found.document(), indent=1, ensure_ascii=False) + "\n").encode())
    print(found.table())
    return 0


def run_tune(given: Values) -> int:
    """Runs `headrace tune` and returns its exit status.

    Raises:
        ToolkitError: The objective is invalid or out of reach, the model cannot be run, or a file cannot be written.
    """
    from headrace_batching import LatencyObjective, ObjectiveError
    from headrace_toolkit import tuned
    from headrace_toolkit.tune import tune

    check_files(given)
    try:
        objective = LatencyObjective.parse(given["objective"])
    except ObjectiveError as error:
        raise ToolkitError(str(error).replace("latency_objective", "--objective", 1)) from error
    place = Path(given["version"])
    check_version(place)
    data = Data.read(given["rows"], "") if "rows" in given else None
    with _progress() as progress:
        found = tune(place, objective, data, given.get("seconds", 60.0), progress)
    print(tuned.table(found))
    writers: dict[str, Callable[[], bytes]] = {
        "json": lambda: (json.dumps(tuned.document(found), indent=1) + "\n").encode(),
        "png": lambda: tuned.chart(found),
        "html": lambda: tuned.page(found).encode(),
    }
    for kind, made in writers.items():
        if kind in given:
            _write(given[kind], made())
    if given.get("write"):
        for file in tuned.write(found):
            print(f"written: {file}")
    else:
        print(f"\n{tuned.MODEL_TOML}:\n\n{tuned.model_toml(found)}\nnothing was written; --write writes these files")
    return 0


def run_package(given: Values) -> int:
    """Runs `headrace package` and returns its exit status.

    Raises:
        ToolkitError: The version cannot be read, or the folder cannot be written.
    """
    from headrace_toolkit.package import package

    for name in package(given["version"], given["folder"], given["kind"]):
        print(Path(given["folder"]) / name)
    return 0


def _recipe(given: Values) -> Recipe:
    """The recipe that flags alone describe."""
    return Recipe(
        source=given["source"],
        source_options=SourceOptions(
            inputs=dict(_declared(text) for text in given.get("signature", ())),
            outputs=tuple(name.strip() for name in given.get("outputs", "").split(",") if name.strip()),
            build=given.get("build", ""),
            trust_pickle=given.get("trust_pickle", False),
        ),
        data=_data_options(given),
        limits=Limits(**{name: given[name] for name in ("max_drop", "min_speedup") if name in given}),
        output=Output(**{name: given[name] for name in ("base", "version", "target", "batch") if name in given}),
        **_run_options(given),
    )


def _over_recipe(recipe: Recipe, given: Values) -> Recipe:
    """A recipe, changed by flags."""
    data = {name: given[name] for name in _DATA_FLAGS if name in given}
    limits = {name: given[name] for name in ("max_drop", "min_speedup") if name in given}
    output = {name: given[name] for name in ("base", "version", "target", "batch") if name in given}
    changed = replace(
        recipe,
        data=replace(recipe.data, **data),
        limits=replace(recipe.limits, **limits),
        output=replace(recipe.output, **output),
        **_run_options(given),
    )
    if not changed.source:
        raise ToolkitError(f'{given["source"]}: names no model: write source = "..." under [model]')
    if not changed.output.base and not given.get("dry_run"):
        raise ToolkitError(f'{given["source"]}: names no base path: write base = "..." under [output]')
    return changed


def _run_options(given: Values) -> Values:
    return {name: given[name] for name in ("seed", "timing_seconds", "load") if name in given}


def _data_options(given: Values) -> DataOptions:
    options = DataOptions(**{name: given[name] for name in _DATA_FLAGS if name in given})
    if options.labels and not options.rows:
        raise ToolkitError("--labels names an array in a file of rows: give the file with --data")
    return options


def _declared(text: str) -> tuple[str, Any]:
    name, equals, spec = text.partition("=")
    if not equals or not name:
        raise ToolkitError(f"--signature must be like image=float32[N,1,8,8]; was {text!r}")
    return name, read_spec(name, spec)


def _run(recipe: Recipe, given: Values) -> int:
    if "batching_file" in given and not recipe.load:
        raise ToolkitError(
            "--batching_file writes the parameters that --load finds: give --load, the number of calls in flight"
        )
    if "form" in given and given.get("to") != "tflite":
        raise ToolkitError("--form is the form of a TFLite file: give --to=tflite as well")
    check_files(given)
    publishes = not given.get("dry_run", False)
    if publishes:
        check_base(Path(recipe.output.base), recipe.output.version)
        if "sign" in given:
            check_key(Path(given["sign"]))
    data = Data.read(recipe.data.rows, recipe.data.labels) if recipe.data.rows else None
    options = replace(recipe.source_options, example=None if data is None else data.inputs)
    source = load(recipe.source, options)
    with _progress() as progress:
        result = _made(source, data, recipe, given, progress)
    published = None
    if publishes and not result.failed:
        published = result.publish(recipe.output.base, recipe.output.version, key=given.get("sign", ""))
    report = replace(result.report, verdict=_verdict(result, published))
    print(report.table())  # printed first, since the version is already published even if writing a file fails
    _write_reports(report, given)
    if "batching_file" in given and report.suggested is not None:
        _write(given["batching_file"], report.suggested.setting.text().encode())
    return 1 if result.failed else 0


def _made(source: Source, data: Data | None, recipe: Recipe, given: Values, progress: Progress) -> Result:
    if given.get("to") != "tflite":
        return optimize(source, data, recipe, progress)
    from headrace_toolkit.to_tflite import convert_to_tflite

    return convert_to_tflite(source, data, given.get("form", "float"), recipe, progress)


def _verdict(result: Result, published: Path | None) -> str:
    where = f"{published / result.model.name}: " if published is not None else ""
    return where + result.report.verdict


def _write_reports(report: Report, given: Values) -> None:
    """Writes the files that were requested besides the table.

    Raises:
        ToolkitError: A file cannot be written.
    """
    from headrace_toolkit import pages

    writers: dict[str, Callable[[], bytes]] = {
        "json": lambda: (json.dumps(report.document(), indent=1, ensure_ascii=False) + "\n").encode(),
        "png": lambda: pages.chart(report),
        "html": lambda: pages.page(report).encode(),
    }
    for kind, made in writers.items():
        if kind in given:
            _write(given[kind], made())


def _write(file: str, content: bytes) -> None:
    try:
        Path(file).write_bytes(content)
    except OSError as error:
        raise ToolkitError(f"{file} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Bars on a terminal, otherwise nothing."""
    if not sys.stderr.isatty():
        yield Silent()
        return
    rich = require("rich.progress", "progress bars", "toolkit")
    console = require("rich.console", "progress bars", "toolkit").Console(stderr=True)
    with rich.Progress(
        rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeElapsedColumn(),
        console=console, transient=True,
    ) as bars:  # fmt: skip
        yield Bars(bars)
