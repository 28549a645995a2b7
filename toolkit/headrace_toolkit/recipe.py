"""Reads a recipe from a TOML file: each key is checked here, and each default is written here."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.search import Search, build_search
from headrace_toolkit.sources.base import SourceOptions
from headrace_toolkit.specs import read_spec
from headrace_toolkit.steps import auto
from headrace_toolkit.steps.base import Step
from headrace_toolkit.tables import Table

TARGETS = ("x86", "vnni", "arm64", "gpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """The rows.

    Attributes:
        rows: A file, or `file.py:function`; empty for none, and random inputs.
        labels: The array in it that holds the labels; empty for none.
        calibration: How many rows are kept from measuring to calibrate on, half of them at most, or taken
            from those to train on where there are any; or another file.
        train: A file of rows to train on, with labels of the same name; empty for none.
        metric: `accuracy`, `r2`, `mean_squared_error`, `cosine`, `file.py:function`, or empty for what fits the labels.
        output: The output that the metric is of; empty looks for one.
    """

    rows: str = ""
    labels: str = ""
    calibration: int | str = 256
    train: str = ""
    metric: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a version must meet to be published.

    Attributes:
        max_drop: How much worse its metric may be than the source's: points of 100 for a share, else percent.
        min_speedup: How many times as fast as the converted model it must be; None asks only that a search's winner
            is not slower.
    """

    max_drop: float = 0.5
    min_speedup: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where to.

    Attributes:
        base: The model's base path, which holds its numbered versions; empty publishes nothing.
        version: The version's number; 0 takes one more than the highest there is.
        target: The machine that will run it: `x86` takes 7-bit weights, `vnni` and `arm64` 8, `gpu` half floats.
        batch: Whether the version may be batched; without, one whose rows influence each other is published with
            batching turned off rather than refused.
    """

    base: str = ""
    version: int = 0
    target: str = "x86"
    batch: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is to be done to a model.

    Attributes:
        source: A file, a folder, or `file.py:function`; empty where the model is handed over itself.
        source_options: What the source does not say of itself.
        data: The rows.
        limits: What the result must meet.
        output: Where it goes.
        steps: What is done, one after the other; a search tries several and keeps one.
        seed: For whatever is drawn at random.
        timing_seconds: CPU seconds that are spent on the times of runs of one number of rows, all models together.
        load: Calls of one row each that are always under way while variants are measured through headrace's own
            batcher; 0 measures bare runs alone.
        text: The TOML that it was read from; empty where it was made otherwise.
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
            ToolkitError: It cannot be read, or a key is unknown or has a value that makes no sense; the text has the
                file, the key and what was given.
        """
        path = Path(file)
        try:
            text = path.read_text(encoding="utf-8")
            values = tomllib.loads(text)
        except OSError as error:
            raise ToolkitError(f"{path}: {error.strerror}") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ToolkitError(f"{path} is not TOML: {error}") from error
        return replace(cls.of(values, path.parent, f"{path.name}: "), text=text)

    @classmethod
    def of(cls, values: Mapping[str, Any], folder: Path, where: str = "") -> "Recipe":
        """The recipe in a table of the same shape as the TOML file.

        Args:
            values: The table.
            folder: What file names in it are relative to.
            where: What messages begin with.

        Raises:
            ToolkitError: As `read`.
        """
        table = Table(where, values, folder)
        source, options = _model(table.inner("model"))
        recipe = cls(
            source=source,
            source_options=options,
            data=_data(table.inner("data")),
            limits=_limits(table.inner("limits")),
            output=_output(table.inner("output")),
            seed=table.whole("seed", 0, 0),
            timing_seconds=table.number("timing_seconds", 1.5, 0.01),
            load=table.whole("load", 0, 0),
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
        version=table.whole("version", defaults.version, 0),
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
