"""`headrace keys`: makes, revokes and lists the API keys in a file."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from headrace_server.commands.ending import ending_of
from headrace_server.security.keys import ApiKey, create_key, read_keys, revoke_keys

DAY = 24 * 3600


def add_command(commands: Any) -> None:
    """Adds the command to those of `headrace`.

    Args:
        commands: The object that `ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "keys",
        help="make, revoke and list API keys",
        description="Make, revoke and list the API keys in a file that `headrace serve --auth_keys_file` reads. The "
        "file holds hashes; a key is shown once, when it is made.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(title="what to do", required=True, metavar="VERB")
    _add(verbs, "create", _create, "make a key, and print it", "create FILE NAME [--days=DAYS]")
    _add(verbs, "revoke", _revoke, "revoke a key by its ID, or all keys with a name", "revoke FILE ID|NAME")
    _add(verbs, "list", _list, "list the keys, without their secrets", "list FILE")


def _add(verbs: Any, name: str, run: Callable[[dict[str, Any]], None], what: str, usage: str) -> None:
    parser = verbs.add_parser(
        name, help=what, usage=f"headrace keys {usage}", allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    parser.set_defaults(command=ending_of("headrace keys", run), command_parser=parser)
    parser.add_argument("file", metavar="FILE", type=Path, help="the file of keys")
    if name == "create":
        parser.add_argument("name", metavar="NAME", help="name of the key's owner; a policy refers to it as key:NAME")
        parser.add_argument(
            "--days", metavar="DAYS", type=_days, help="days for which the key is valid (default: forever)"
        )
    if name == "revoke":
        parser.add_argument("which", metavar="ID|NAME", help="ID of a key, or name of an owner")


def _days(text: str) -> float:
    days = float(text) if text.replace(".", "", 1).isdigit() else 0.0
    if days <= 0:
        raise argparse.ArgumentTypeError(f"--days must be a number above 0; was {text!r}")
    return days


def _create(values: dict[str, Any]) -> None:
    days = values.get("days")
    key = create_key(values["file"], values["name"], expires=None if days is None else int(time.time() + days * DAY))
    print(key)
    print("This key is not shown again; the file holds only its hash.", file=sys.stderr)


def _revoke(values: dict[str, Any]) -> None:
    for key in revoke_keys(values["file"], values["which"]):
        print(f"revoked {key.id} of {key.name}")


def _list(values: dict[str, Any]) -> None:
    keys = read_keys(values["file"]).values()
    print("\n".join(_lines(keys)) if keys else "no keys")


def _lines(keys: Iterable[ApiKey]) -> Iterator[str]:
    rows = [("ID", "NAME", "CREATED", "STATE"), *((key.id, key.name, _date(key.created), _state(key)) for key in keys)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _state(key: ApiKey) -> str:
    if key.revoked is not None:
        return f"revoked {_date(key.revoked)}"
    if key.expires is None:
        return "good"
    return f"{'expired' if key.expires <= time.time() else 'good until'} {_date(key.expires)}"


def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds)) + "Z"
