"""The `headrace` command: what can be answered at once, and then the command line, which imports the rest."""

import sys
from collections.abc import Sequence
from importlib.metadata import version

EXTRAS = "cpu, gpu, tensorflow, tflite or server"


def main(arguments: Sequence[str] | None = None) -> int:
    """The `headrace` command; returns its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given == ["--version"]:
        print(f"headrace {version('headrace')}")
        return 0
    try:
        from headrace_server.commands.command_line import run_command

        return run_command(given)
    except ModuleNotFoundError as error:
        return _missing(error)


def _missing(error: ModuleNotFoundError) -> int:
    """Says which extra is missing, where it is one of the packages that only an extra brings."""
    package = (error.name or "").partition(".")[0]
    if package.startswith("headrace"):
        raise error
    print(
        f"headrace: the package {package} is not installed: pip install 'headrace[cpu]' brings what a server needs "
        f"(extras: {EXTRAS})",
        file=sys.stderr,
    )
    return 1
