"""Reads a recipe from a TOML file; every key is checked, and every default defined, here."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.ranges import LARGEST_SEED, LARGEST_VERSION, MOST_CALLS, MOST_SECONDS
from headrace_toolkit.search import Search, build_search
from headrace_toolkit.sources.base import SourceOptions
from headrace_toolkit.specs import read_spec
from headrace_toolkit.steps import auto
from headrace_toolkit.steps.base import Step
from headrace_toolkit.tables import Table

TARGETS = ("x86", "vnni", "arm64", "gpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """Which rows are used, and for what.

    Attributes:
        rows: A file, or `file.py:function`; empty means none, so that inputs are random.
        labels: The array with the labels; empty if there is none.
        calibration: The name of a file of calibration rows; or the number of rows, at most half of all, that are used
            for calibration instead of measuring. If there are training rows, they are taken from those.
        train: A file of rows to train on, with labels of the same name; empty if there are none.
        metric: `accuracy`, `r2`, `mean_squared_error`, `cosine`, `file.py:function`, or empty for the one that fits the
            labels.
        output: The output for the metric; if empty, one is chosen.
    """

    rows: str = ""
    labels: str = ""
    calibration: int | str = 256
    train: str = ""
    metric: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The conditions for publishing a version.

    Attributes:
        max_drop: How much worse its metric may be than the source's: percentage points for a share, otherwise percent.
        min_speedup: How many times as fast as the converted model it must be; None only requires that a search's winner
            is not slower.
    """

    max_drop: float = 0.5
    min_speedup: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The settings for publishing the version.

    Attributes:
        base: The model's base path, with its numbered versions; empty publishes nothing.
        version: The version's number; 0 means one more than the highest.
        target: The machine that will run it: `x86` takes 7-bit weights, `vnni` and `arm64` 8-bit weights, `gpu` half
            floats.
        batch: Whether the version may be batched; if not, a model whose rows influence each other is published with
            batching turned off instead of being refused.
    """

    base: str = ""
    version: int = 0
    target: str = "x86"
    batch: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The plan for a model.

    Attributes:
        source: A file, a folder, or `file.py:function`; empty if the model itself is passed.
        source_options: Facts about the source that its framework does not record.
        data: Which rows the model is checked, calibrated and trained with.
        limits: The conditions for the result.
        output: Where the version is published.
        steps: The steps in order; a search tries several and keeps one.
        seed: The seed of random numbers.
        timing_seconds: CPU seconds spent on timing runs with one number of rows, for all models together.
        load: The number of calls of one row each in flight while variants are measured through headrace's own batcher;
            0 measures only bare runs.
        text: The TOML that it was read from; empty if it was made in another way.
    """

    source: str = ""
    source_options: SourceOptions = field(default_factory=SourceOptions)
    data: DataOptions = field(default_factory=DataOptions)
    limits: Limits = field(default_factory=Limits)
    output: Output = field(default_factory=Output)
    steps: tuple[Step | Search, ...] = field(default_factory=lambda: (Search(),))
    seed: int = 0
    timing_seconds: float = 1.5
    load: int = 0
    text: str = ""

    @classmethod
    def read(cls, file: str | Path) -> "Recipe":
        """Reads a TOML file. File names in it are relative to its own folder.

        Raises:
            ToolkitError: The file cannot be read, or a key is unknown or has an invalid value; the text has the file,
                the key and the value.
        """
        path = Path(file)
        try:
            text = path.read_text(encoding="utf-8")
            values = tomllib.loads(text)
        except OSError as error:
            raise ToolkitError(f"{path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError, TOMLDecodeError, a number too long
            raise ToolkitError(f"{path} is not TOML: {error}") from error
        return replace(cls.of(values, path.parent, f"{path.name}: "), text=text)

    @classmethod
    def of(cls, values: Mapping[str, Any], folder: Path, where: str = "") -> "Recipe":
        """The recipe in a table of the same shape as the TOML file.

        Args:
            values: The table.
            folder: The folder that file names are relative to.
            where: The prefix of error messages.

        Raises:
            ToolkitError: As for `read`.
        """
        table = Table(where, values, folder)
        source, options = _model(table.inner("model"))
        recipe = cls(
            source=source,
            source_options=options,
            data=_data(table.inner("data")),
            limits=_limits(table.inner("limits")),
            output=_output(table.inner("output")),
            seed=table.whole("seed", 0, 0, LARGEST_SEED),
            timing_seconds=table.number("timing_seconds", 1.5, 0.01, MOST_SECONDS),
            load=table.whole("load", 0, 0, MOST_CALLS),
        )
        steps = tuple(_step(step) for step in table.tables("step"))
        table.done()
        return replace(recipe, steps=steps) if steps else recipe


def _model(table: Table) -> tuple[str, SourceOptions]:
    source = table.file("source")
    options = SourceOptions(
        inputs={name: read_spec(name, text) for name, text in table.names("inputs").items()},
        outputs=table.strings("outputs"),
        build=table.file("build"),
        trust_pickle=table.boolean("trust_pickle", False),
    )
    table.done()
    return source, options


def _data(table: Table) -> DataOptions:
    options = DataOptions(
        rows=table.file("rows"),
        labels=table.string("labels"),
        calibration=table.number_or_file("calibration", DataOptions().calibration, 1),  # type: ignore[arg-type]
        train=table.file("train"),
        metric=_metric(table),
        output=table.string("output"),
    )
    table.done()
    return options


def _metric(table: Table) -> str:
    name = table.string("metric")
    return table.resolved(name) if ":" in name else name


def _limits(table: Table) -> Limits:
    defaults = Limits()
    limits = Limits(
        max_drop=table.number("max_drop", defaults.max_drop, 0),
        min_speedup=table.number("min_speedup", 1.0, 0) if "min_speedup" in table else None,
    )
    table.done()
    return limits


def _output(table: Table) -> Output:
    defaults = Output()
    output = Output(
        base=table.file("base"),
        version=table.whole("version", defaults.version, 0, LARGEST_VERSION),
        target=table.choice("target", TARGETS, defaults.target),
        batch=table.boolean("batch", defaults.batch),
    )
    table.done()
    return output


def _step(table: Table) -> Step | Search:
    kind = table.choice("kind", (*auto.KINDS, "search"), "")
    step: Step | Search = build_search(table) if kind == "search" else auto.build(kind, table)
    table.done()
    return step
