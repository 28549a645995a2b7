"""The `headrace` command: answers simple requests immediately, and otherwise imports the full command line."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from headrace_server.commands.collecting import fewer_collections

EXTRAS = "cpu, gpu, tensorflow, tflite or server"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the `headrace` command and returns its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given == ["--version"]:
        print(f"headrace {version('headrace')}")
        return 0
    try:
        with _killed_by_interrupts(), fewer_collections():
            from headrace_server.commands.command_line import run_command
        return run_command(given)
    except ModuleNotFoundError as error:
        return _missing(error)


@contextlib.contextmanager
def _killed_by_interrupts() -> Iterator[None]:
    """Makes Ctrl+C end the process without a traceback, even while modules are imported."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may change handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if before is not None:  # None if C code has set the handler
            signal.signal(signal.SIGINT, before)


def _missing(error: ModuleNotFoundError) -> int:
    """Says which extra to install if the missing package comes only with an extra."""
    package = (error.name or "").partition(".")[0]
    if package.startswith("headrace"):
        raise error
    print(
        f"headrace: the package {package} is not installed: pip install 'headrace[cpu]' installs what a server needs "
        f"(extras: {EXTRAS})",
        file=sys.stderr,
    )
    return 1
