"""`headrace sign` and `headrace seal`: prepare a version before it is published."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from headrace_server.commands.ending import ending_of
from headrace_server.config.model_toml import MODEL_FILE
from headrace_server.errors import invalid, not_found, unreadable
from headrace_server.security.models.age import recipients_of, seal_for
from headrace_server.security.models.model_keys import KeySource
from headrace_server.security.models.names import MODEL_KEYS_VARIABLE, SEALED_FILE, SIGNATURE_FILE
from headrace_server.security.models.opening import files_of
from headrace_server.security.models.sealed import seal_files
from headrace_server.security.models.signing import PASSWORD_VARIABLE, sign


def add_command(commands: Any) -> None:
    """Adds both commands to those of `headrace`.

    Args:
        commands: The object that `ArgumentParser.add_subparsers` returned.
    """
    signing = commands.add_parser(
        "sign",
        help="sign a version of a model",
        usage="headrace sign VERSION --key=FILE [--certificates=FILE]",
        description="Sign a version of a model, in the format of OpenSSF Model Signing: its signature goes into "
        f"{SIGNATURE_FILE} in the version's folder, or next to the model's file. An encrypted key's password is read "
        f"from {PASSWORD_VARIABLE}.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    signing.set_defaults(command=ending_of("headrace sign", _sign), command_parser=signing)
    signing.add_argument("version", metavar="VERSION", type=Path, help="the version's folder, or the model's file")
    signing.add_argument("--key", metavar="FILE", type=Path, required=True, help="PEM file with an ECDSA private key")
    signing.add_argument(
        "--certificates",
        metavar="FILE",
        type=Path,
        help="PEM file with the key's certificate and its issuers' certificates",
    )
    sealing = commands.add_parser(
        "seal",
        help="encrypt a version of a model",
        usage="headrace seal VERSION OUT [--model_keys_file=FILE | --recipient=RECIPIENT ...]",
        description=f"Seal a version of a model: its files are encrypted into {SEALED_FILE} in the folder OUT, for "
        f"age recipients or with a key. The key is the first one from --model_keys_file, from {MODEL_KEYS_VARIABLE} in "
        "the environment, or from --model_keys_command; `openssl rand -base64 32` makes one.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    sealing.set_defaults(command=ending_of("headrace seal", _seal), command_parser=sealing)
    sealing.add_argument("version", metavar="VERSION", type=Path, help="the version's folder")
    sealing.add_argument("out", metavar="OUT", type=Path, help="the folder of the sealed version, which is created")
    sealing.add_argument(
        "--model_keys_file", metavar="FILE", default="", help="file of keys, one per line; the first one is used"
    )
    sealing.add_argument(
        "--model_keys_command", metavar="COMMAND", default="", help="command that prints keys, one per line"
    )
    sealing.add_argument(
        "--recipient",
        metavar="RECIPIENT",
        action="append",
        default=[],
        help="age recipient (age1...) that can open the version with its identity; may be repeated",
    )


def _sign(values: dict[str, Any]) -> None:
    _check_there(values["version"])
    password = os.environ.get(PASSWORD_VARIABLE, "")
    print(sign(values["version"], values["key"], values.get("certificates"), password))


def _seal(values: dict[str, Any]) -> None:
    version, out = values["version"], values["out"]
    _check_there(version)
    if not version.is_dir():
        raise invalid(f"{version} is a file, but must be a version's folder")
    seal = _sealing(values)
    files = {name: version / name for name in files_of(version) if name != SIGNATURE_FILE}
    path: Path = out / SEALED_FILE
    new = out / f".{SEALED_FILE}.new"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            seal(files, file)
        os.replace(new, path)
    except OSError as error:
        raise unreadable(error.filename or path, error) from error
    print(path)


def _sealing(values: dict[str, Any]) -> Callable[[dict[str, Path], BinaryIO], None]:
    """Seals files into a file, for the recipients or with the key that the options name."""
    file, command = values["model_keys_file"], values["model_keys_command"]
    if values["recipient"]:
        if file or command:
            raise invalid("--recipient cannot be combined with --model_keys_file or --model_keys_command")
        recipients = recipients_of(values["recipient"])
        return lambda files, out: seal_for(files, recipients, out)
    keys = KeySource(file, command, os.environ.get(MODEL_KEYS_VARIABLE, "")).keys()
    key = next(iter(keys.by_id.values()), None)
    if key is None:
        ways = f"give --recipient, --model_keys_file or --model_keys_command, or set {MODEL_KEYS_VARIABLE}"
        raise invalid(f"there is no key: {ways}")
    return lambda files, out: seal_files(files, key, out)


def _check_there(version: Path) -> None:
    if not version.exists():
        raise not_found(f"there is no file or folder {version}")
    if version.is_dir():
        _check_is_version(version)


def _check_is_version(folder: Path) -> None:
    """Refuses a folder of versions: whoever names it has perhaps not looked at each of them."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    versions = [entry for entry in entries if entry.is_dir() and entry.name.isdecimal()]
    if versions and {entry.name for entry in entries if entry.is_file()} <= {MODEL_FILE, SIGNATURE_FILE}:
        newest = max(versions, key=lambda entry: int(entry.name))
        raise invalid(f"{folder} is a folder of versions: name one of them, such as {newest}")
