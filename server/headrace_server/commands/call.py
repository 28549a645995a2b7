"""`headrace call`: one Predict from the command line, with arrays in the dtypes that the model declares."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from headrace_client import Client, ServerError
from headrace_client.request import Signature

ADDRESS = "localhost:8500"

TOKEN_VARIABLE = "HEADRACE_TOKEN"
"""The environment variable of an API key or a token, which a flag would show to everybody on the machine."""


def credentials() -> tuple[tuple[str, str], ...]:
    """The metadata for a server that authenticates callers; empty if the environment has no token."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    return (("authorization", f"Bearer {token}"),) if token else ()


def add_command(commands: Any) -> None:
    """Adds the command to those of `headrace`.

    Args:
        commands: What `ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "call",
        help="call a model that is served",
        usage="headrace call MODEL NAME=VALUE... [--server=ADDRESS]",
        description="Call a served model and print its outputs as JSON. A VALUE is JSON, such as [[5.1, 3.5]], plain "
        "text, or @FILE for an array in a .npy file. Without values, the model's inputs and outputs are printed. "
        f"{TOKEN_VARIABLE} in the environment is the API key or the token for a server that asks for one.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.set_defaults(command=_call, command_parser=parser)
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    parser.add_argument("inputs", metavar="NAME=VALUE", nargs="*", help="an input")
    parser.add_argument("--server", metavar="ADDRESS", help=f"the server's gRPC address (default: {ADDRESS})")
    parser.add_argument("--signature", metavar="NAME", help="signature to call (default: serving_default)")
    parser.add_argument("--version", metavar="INT", type=int, help="version to call (default: the newest)")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, help="seconds to wait (default: 60)")


def _call(parser: argparse.ArgumentParser, values: dict[str, Any]) -> int:
    del parser
    try:
        with Client(
            values.get("server", ADDRESS), timeout=values.get("timeout", 60.0), metadata=credentials()
        ) as client:
            print(_answer(client, values))
    except (ServerError, ValueError, OSError) as error:
        print(f"headrace: the call failed: {error}", file=sys.stderr)
        return 1
    return 0


def _answer(client: Client, values: dict[str, Any]) -> str:
    model, version = values["model"], values.get("version")
    name = values.get("signature", "serving_default")
    signatures = client.metadata(model, version=version).signatures
    if name not in signatures:
        raise ValueError(f"{model} has no signature {name}: it has {', '.join(sorted(signatures))}")
    signature = signatures[name]
    if not values.get("inputs"):
        return f"{model}: {signature_line(signature)}"
    inputs = dict(_input(text, signature) for text in values["inputs"])
    outputs = client.predict(model, inputs, version=version, signature=name)
    return json.dumps({alias: _plain(array) for alias, array in outputs.items()}, indent=1, ensure_ascii=False)


def signature_line(signature: Signature) -> str:
    """One line with the inputs and outputs of a signature, such as `X float32[?,4] -> label int64[?]`."""
    sides = (signature.inputs, signature.outputs)
    return " -> ".join(", ".join(f"{name} {spec}" for name, spec in side.items()) or "nothing" for side in sides)


def _input(text: str, signature: Signature) -> tuple[str, np.ndarray]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} is not of the form NAME=VALUE")
    if name not in signature.inputs:
        raise ValueError(f"the model has no input {name}: {signature_line(signature)}")
    spec = signature.inputs[name]
    read = np.load(Path(value[1:]), allow_pickle=False) if value.startswith("@") else _json(value)
    try:
        array = np.asarray(read, dtype=spec.dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be {spec}: {error}") from error
    return name, array


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _plain(array: np.ndarray) -> Any:
    """An array as nested lists that JSON can hold; bytes that are not UTF-8 are escaped."""
    if array.dtype != object:
        return array.tolist()
    texts = [item.decode(errors="backslashreplace") if isinstance(item, bytes) else item for item in array.ravel()]
    return np.asarray(texts, dtype=object).reshape(array.shape).tolist()
