"""Where a command's log lines go, and what they look like."""

import logging
import sys


def log_to_stderr() -> None:
    """Sends all log lines to stderr, each with its date, time, zone and level."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )
