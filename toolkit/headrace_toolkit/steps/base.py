"""The Step protocol: from one model file to another, and the step's other requirements."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace_toolkit.data import Data
from headrace_toolkit.sources.base import Source

Advance = Callable[[int, int], None]
"""Called with the number of finished rows or epochs, and of all."""


def in_silence(done: int, total: int) -> None:
    """Ignores the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The data that a step needs in addition to the model.

    Attributes:
        rows: Whether it needs rows to calibrate on, which are then not used for measuring. It fails without them.
        module: Whether it needs the framework's module, which only a `sources.base.Trainable` has.
    """

    rows: bool = False
    module: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The input of a step.

    Attributes:
        model: The ONNX file from the previous step. It is not changed.
        folder: An empty folder for the step's own files.
        source: The source that `model` was exported from; None once a step has changed the file itself, so that the
            module no longer matches it.
        calibration: Rows to calibrate on, disjoint from those for measuring; None if there are none.
        training: Rows to train on, with their labels if there are any; None if there are none.
        labels: The name of the array with the labels, in files with rows to train on.
        target: `x86`, `vnni`, `arm64` or `gpu`.
        seed: The seed of all random numbers; the same seed makes the same bytes.
        advance: Called with the progress.
    """

    model: Path
    folder: Path
    source: Source | None = None
    calibration: Data | None = None
    training: Data | None = None
    labels: str = ""
    target: str = "x86"
    seed: int = 0
    advance: Advance = in_silence


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The result of a step.

    Attributes:
        model: The new file, in the work's folder.
        source: The source with the new module, for a step that changed one; None for a step that changed the file.
        notes: Messages for the user, one sentence each.
        trained_on: The rows that the model has now seen; None if it was not trained.
        name: The name in reports, if settings depend on the model or the target; empty for the step's name.
    """

    model: Path
    source: Source | None = None
    notes: tuple[str, ...] = ()
    trained_on: Data | None = None
    name: str = ""


class Step(Protocol):
    """One change to a model. It is built from its table in a recipe, which is checked then; it keeps no state."""

    @property
    def name(self) -> str:
        """The step's name in reports, with its settings: `static int8, per channel, 7 bit`."""

    @property
    def needs(self) -> Needs:
        """The kinds of data that the step needs in addition to the model."""

    def run(self, work: Work) -> Made:
        """Creates the new model.

        Raises:
            ToolkitError: The model cannot be changed in this way; nothing outside the work's folder was touched.
        """
