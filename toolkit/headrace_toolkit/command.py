"""The toolkit's commands: `headrace convert`, `optimize`, `report`, `explain`, `tune` and `package`, as one table.

Importing this takes little time: the modules that a command needs are imported when it runs.
"""

import argparse
from dataclasses import dataclass
from typing import Any

from headrace_toolkit import flags
from headrace_toolkit.command_ends import lazily
from headrace_toolkit.flags import Groups

SOURCE_HELP = (
    "the model: a file, a folder with saved_model.pb, or file.py:function, where the function returns the model"
)
BASE_HELP = "the model's folder of numbered versions"
VERSION_HELP = "a version's folder, or an ONNX or TFLite file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An argument without a flag.

    Attributes:
        name: The name by which the command finds it.
        metavar: The argument's placeholder in `--help`.
        help: The text in `--help`.
        count: As argparse's `nargs`; None means exactly one.
    """

    name: str
    metavar: str
    help: str
    count: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of the toolkit.

    Attributes:
        name: The command's name after `headrace`.
        short: The line in `headrace --help`.
        long: The description in its own `--help`.
        usage: The usage after its name.
        places: The arguments without flags.
        groups: The groups of flags.
        run: The function of `command_runs.py` that runs it.
    """

    name: str
    short: str
    long: str
    usage: str
    places: tuple[Place, ...]
    groups: Groups
    run: str


_SOURCE = Place(name="source", metavar="SOURCE", help=SOURCE_HELP)

COMMANDS = (
    Command(
        name="convert",
        short="convert a trained model to ONNX or TFLite, compare its answers, and publish it",
        long="Convert a trained model to ONNX or TFLite, compare its answers with those of its framework, and publish "
        "it as a version.",
        usage="SOURCE BASE_PATH [--data=FILE] [--labels=NAME] [flags]",
        places=(_SOURCE, Place(name="base", metavar="BASE_PATH", help=BASE_HELP)),
        groups={
            "the model": flags.MODEL,
            "the rows": flags.ROWS + flags.TIMES,
            "the format": flags.FORMAT,
            "the version": flags.VERSION,
            "the report": flags.REPORT,
        },
        run="run_convert",
    ),
    Command(
        name="optimize",
        short="find a faster or smaller form of a model that answers as well, and publish it",
        long="Convert a model as `headrace convert` does, try steps that may make it faster or smaller, measure "
        "each, and publish the best one that meets the limits. With a recipe, do the steps that it names instead.",
        usage="SOURCE BASE_PATH [--data=FILE] [--labels=NAME] [flags]\n"
        "       headrace optimize RECIPE.toml [--dry_run]",
        places=(
            Place(name="source", metavar="SOURCE", help=f"{SOURCE_HELP}; or a recipe, a .toml file"),
            Place(name="base", metavar="BASE_PATH", help=f"{BASE_HELP} (a recipe may name it)", count="?"),
        ),
        groups={
            "the model": flags.MODEL,
            "the rows": flags.ROWS + flags.TIMES,
            "the search": flags.SEARCH,
            "the version": flags.VERSION,
            "the report": flags.REPORT,
        },
        run="run_optimize",
    ),
    Command(
        name="report",
        short="measure published versions side by side",
        long="Measure versions side by side, and compare all others with the first one.",
        usage="VERSION... [--data=FILE] [--labels=NAME] [--html=FILE]",
        places=(Place(name="versions", metavar="VERSION", help=VERSION_HELP, count="+"),),
        groups={"the rows": flags.ROWS + flags.TIMES, "the report": flags.REPORT},
        run="run_report",
    ),
    Command(
        name="explain",
        short="show which inputs a version's answers depend on",
        long="Shuffle the values of one input at a time, and show how much worse the version's answers become "
        "(permutation importance).",
        usage="VERSION --data=FILE [--labels=NAME] [--repeats=INT]",
        places=(Place(name="version", metavar="VERSION", help=VERSION_HELP),),
        groups={"the rows": flags.ROWS, "the explanation": flags.EXPLAIN},
        run="run_explain",
    ),
    Command(
        name="tune",
        short="find threads and batch sizes for a latency objective, on this machine",
        long="Run a model at many batch sizes and thread counts, choose the combination that serves the most rows "
        "within a latency objective, try it in headrace's own batches, and show the curves. Files "
        "are written only with --write or the flags that name them.",
        usage="VERSION --objective='p99 20ms' [--data=FILE] [--seconds=FLOAT] [--write]",
        places=(Place(name="version", metavar="VERSION", help=VERSION_HELP),),
        groups={"the objective": flags.TUNE, "the report": flags.REPORT},
        run="run_tune",
    ),
    Command(
        name="package",
        short="write a version into a folder, with a Dockerfile or for MLflow",
        long="Write a folder with a version and the files that are needed to serve it. Nothing is built or sent.",
        usage="VERSION FOLDER --as=docker|mlflow",
        places=(
            Place(name="version", metavar="VERSION", help="a version's folder"),
            Place(name="folder", metavar="FOLDER", help="the folder to write; it must be empty or not exist yet"),
        ),
        groups={"the folder": flags.PACKAGE},
        run="run_package",
    ),
)


def add_commands(commands: Any) -> None:
    """Adds the toolkit's commands to those of `headrace`.

    Args:
        commands: The object that `ArgumentParser.add_subparsers` returned. Each command sets `command_parser`, and
            `command`, which is called with its parser and the given values, and returns the exit status.
    """
    for command in COMMANDS:
        parser: argparse.ArgumentParser = commands.add_parser(
            command.name,
            help=command.short,
            usage=f"headrace {command.name} {command.usage}",
            description=command.long,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,  # only flags that were set appear in the result
        )
        for place in command.places:
            parser.add_argument(place.name, metavar=place.metavar, help=place.help, nargs=place.count)
        for title, members in command.groups.items():
            group = parser.add_argument_group(title)
            for flag in members:
                flag.add_to(group)
        parser.set_defaults(command=lazily(command.run), command_parser=parser)
