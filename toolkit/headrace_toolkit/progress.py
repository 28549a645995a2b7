"""Shows progress: as bars on a terminal, or not at all."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from headrace_toolkit.steps.base import Advance, in_silence


class Progress(Protocol):
    """Shows the progress of the work."""

    def step(self, name: str) -> AbstractContextManager[Advance]:
        """Begins a step, which ends with the context; its `Advance` is called with the progress."""


class Silent:
    """Shows nothing."""

    def step(self, name: str) -> AbstractContextManager[Advance]:
        """Runs the step without showing progress."""
        del name
        return nullcontext(in_silence)


class Bars:
    """One bar per step, drawn by rich on stderr if it is a terminal.

    Args:
        bars: A `rich.progress.Progress` that has been started.
    """

    def __init__(self, bars: Any) -> None:
        self._bars = bars

    def step(self, name: str) -> AbstractContextManager[Advance]:
        """A new bar for the step."""
        return _Bar(self._bars, name)


class _Bar:
    def __init__(self, bars: Any, name: str) -> None:
        self._bars = bars
        self._task = bars.add_task(name, total=None)

    def __enter__(self) -> Advance:
        return lambda done, total: self._bars.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._bars.remove_task(self._task)
