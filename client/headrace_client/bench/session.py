"""One run of `headrace bench`: reads the settings, measures, shows the progress, and writes the results."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from headrace_client.bench import page, report
from headrace_client.bench.errors import BenchError
from headrace_client.bench.points import Point
from headrace_client.bench.running import run
from headrace_client.bench.server import native
from headrace_client.bench.settings import Settings, Stage, read

_CLEAR = "\r\x1b[K"


def bench(values: Mapping[str, Any]) -> None:
    """Runs the measurements of a command line; prints the table to stdout, and progress to stderr if it is a terminal.

    Raises:
        BenchError: A value from the user cannot be used, or a server does not answer.
    """
    settings = read(values)
    if not settings.over_rest:
        native()
    outputs = {name: Path(values[name]) for name in ("json", "png", "html") if name in values}
    for path in outputs.values():
        if not path.parent.is_dir():
            raise BenchError(f"{path} cannot be written: there is no folder {path.parent}")
        if path.is_dir():
            raise BenchError(f"{path} cannot be written: it is a folder")
    if outputs.keys() & {"png", "html"}:
        page.require_charts()
    progress = Progress(sys.stderr)
    points = []
    for point in run(settings, progress.tell):
        progress.clear()
        points.append(point)
    print(report.table(points))
    _write(outputs, settings, points)


class Progress:
    """A line that shows the progress of a stage on a terminal.

    Args:
        stream: The stream to write to, if it is a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = stream.isatty()

    def tell(self, server: str, stage: Stage, elapsed: float, total: float, ended: int, failed: int) -> None:
        """Updates the line that shows the progress."""
        if self._shown:
            rate = ended / elapsed if elapsed else 0.0
            line = f"{server}, {stage}: {elapsed:.1f} of {total:.1f} s, {ended:,} calls ({rate:,.0f}/s)"
            self._stream.write(_CLEAR + line + (f", {failed:,} failed" if failed else ""))
            self._stream.flush()

    def clear(self) -> None:
        """Removes the line."""
        if self._shown:
            self._stream.write(_CLEAR)
            self._stream.flush()


def _write(outputs: Mapping[str, Path], settings: Settings, points: list[Point]) -> None:
    try:
        if "json" in outputs:
            outputs["json"].write_text(json.dumps(report.as_json(settings, points), indent=1) + "\n")
        if "png" in outputs:
            outputs["png"].write_bytes(page.chart(points))
        if "html" in outputs:
            outputs["html"].write_text(page.page(settings, points))
    except OSError as error:
        raise BenchError(f"{error.filename} cannot be written: {error.strerror}") from error
