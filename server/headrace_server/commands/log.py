"""The destination of a command's log lines, and their format."""

import json
import logging
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    _Handler = logging.StreamHandler[TextIO]
else:
    _Handler = logging.StreamHandler

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

ACCESS_LOG = "headrace_server.metrics.access_log"
"""The name of the logger for calls, which is not imported here: other commands start without it."""


class JsonFormatter(logging.Formatter):
    """Formats each record as a line of JSON: `time`, `level`, `logger`, `message`, and `exception` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record."""
        line = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Formats each record as a line with date, time, time zone and level; formats the time once per second.

    A server that starts with thousands of models writes thousands of lines in a few seconds. Further lines of a message
    are indented, and other control characters escaped: a name from a caller could otherwise forge a record, or change
    the terminal.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stamp = (0, "")  # replaced as a whole, since several threads may format lines

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record."""
        second, stamp = self._stamp
        if second != int(record.created):
            second = int(record.created)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(second))
            self._stamp = (second, stamp)
        line = f"{stamp} {record.levelname:<7} {_harmless(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


_CONTROLS = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
_CONTROLS |= {ord("\t"): "\t", ord("\n"): "\n  "}


def _harmless(text: str) -> str:
    return text if text.isprintable() else text.translate(_CONTROLS)


class StderrHandler(_Handler):
    """The log handler of the running command; if two commands run in one process, that of the last one."""


def log_to_stderr(level: str = "info", form: str = "text") -> None:
    """Sends log lines to stderr, in place of what an earlier call has set up.

    The lines of the access log are written at every level: it has a flag of its own.

    Args:
        level: The lowest level that is logged; a value not in LEVELS means `info`.
        form: `text` (each line has date, time, time zone and level) or `json`.
    """
    # No line shows these, and finding them takes half of the time of a line.
    logging._srcfile = None  # noqa: SLF001 - the documented way
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, StderrHandler)]:
        root.removeHandler(old)
    handler = StderrHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root.addHandler(handler)
    root.setLevel(level.upper() if level in LEVELS else "INFO")
    logging.getLogger(ACCESS_LOG).setLevel(logging.INFO)
