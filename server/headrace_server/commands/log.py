"""Where a command's log lines go, and what they look like."""

import json
import logging
import sys
from datetime import datetime

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")


class JsonFormatter(logging.Formatter):
    """A line of JSON for each record: `time`, `level`, `logger`, `message`, and `exception` where there was one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr(level: str = "info", form: str = "text") -> None:
    """Sends log lines to stderr, instead of where they went before.

    Args:
        level: The least that is logged; what is none of LEVELS is `info`.
        form: `text`, each line with its date, time, zone and level; or `json`.
    """
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S%z")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    least = level.upper() if level in LEVELS else "INFO"
    logging.basicConfig(level=least, handlers=[handler], force=True)
