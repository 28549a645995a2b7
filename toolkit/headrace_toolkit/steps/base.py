"""The Step protocol: from one model file to another, and what the step needs besides."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace_toolkit.data import Data
from headrace_toolkit.sources.base import Source

Advance = Callable[[int, int], None]
"""Called with the number of finished rows or epochs, and of all."""


def in_silence(done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a step needs besides the model.

    Attributes:
        rows: Rows to calibrate on, which are then kept from being measured on. One that cannot do without refuses.
        module: A framework's module, which only a `Trainable` source has.
    """

    rows: bool = False
    module: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The input of a step.

    Attributes:
        model: The ONNX file that the step before made. It is not changed.
        folder: An empty folder for the step's own files.
        source: What `model` was exported from; None once a step has changed the file itself, so that a module no
            longer says what the file does.
        calibration: Rows to calibrate on, disjoint from those that are measured on; None where there are none.
        training: Rows to train on, with their labels where there are any; None where there are none.
        labels: The name of the array that holds labels, in files that the step reads rows to train on from.
        target: `x86`, `vnni`, `arm64` or `gpu`.
        seed: For whatever is drawn at random; the same seed makes the same bytes.
        advance: Called as the work goes on.
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
        source: The source around the new module, for a step that changed one; None for a step that changed the file.
        notes: Messages for the user, one sentence each.
        trained_on: The rows that the model has now seen; None where it was not trained.
        name: What reports call it, where settings followed from the model or the target; empty for the step's name.
    """

    model: Path
    source: Source | None = None
    notes: tuple[str, ...] = ()
    trained_on: Data | None = None
    name: str = ""


class Step(Protocol):
    """One change to a model. Built from its table in a recipe, checked when it is built; it keeps no state."""

    @property
    def name(self) -> str:
        """Its name in reports, with its settings: `static int8, per channel, 7 bit`."""

    @property
    def needs(self) -> Needs:
        """What it works with besides the model."""

    def run(self, work: Work) -> Made:
        """Creates the new model.

        Raises:
            ToolkitError: The model cannot be changed in this way; nothing outside the work's folder was touched.
        """
