"""`headrace call`: one Predict from the command line, with arrays in the dtypes that the model declares."""

import argparse
import json
import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from headrace_client import Client, ServerError
from headrace_client.request import Signature
from headrace_client.tls import ENVIRONMENT, add_tls_flags, credentials_of, tls_of, told
from headrace_client.token import TOKEN_VARIABLE, token_metadata
from headrace_server.config.run import LAST_PORT

ADDRESS = "localhost:8500"


def checked_address(address: str) -> str:
    """Checks a server's address, and returns it. gRPC would log errors about a wrong one, or call another address.

    Raises:
        ValueError: The address cannot be a server's.
    """
    host, colon, port = address.rpartition(":")
    digits = port.lstrip("0") if port.isascii() and port.isdigit() else ""
    # Python refuses to convert a number of thousands of digits.
    is_port = 0 < len(digits) <= len(str(LAST_PORT)) and int(digits) <= LAST_PORT
    has_no_port = bool(address) and (not colon or "]" in port or port.startswith("/"))
    is_url = address.startswith(("http://", "https://"))
    if not address.startswith("unix:") and (is_url or not ((host and is_port) or has_no_port)):
        raise ValueError(f"--server must be HOST:PORT or unix:PATH; was {address!r}")
    return address


def looks_like_address(text: str) -> bool:
    """Whether an argument may be meant as a server's address: `unix:PATH`, or a host and the number of a port."""
    port = text.rpartition(":")[2]
    return text.startswith("unix:") or (port != text and "=" not in text and port.isdigit())


def server_of(values: dict[str, Any]) -> str:
    """The server's address on a command line that takes it as SERVER, too.

    Raises:
        ValueError: The address is given twice, or cannot be a server's.
    """
    if "server" in values and "address" in values:
        raise ValueError(f"{values['address']} and --server both name the server: give only one of them")
    return checked_address(values.get("server", values.get("address", ADDRESS)))


def add_command(commands: Any) -> None:
    """Adds the command to those of `headrace`.

    Args:
        commands: The object that `ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "call",
        help="call a model that is served",
        usage="headrace call MODEL NAME=VALUE... [--server=ADDRESS]",
        description="Call a served model and print its outputs as JSON. A VALUE is JSON (such as [[5.1, 3.5]]), plain "
        "text, or @FILE for an array in a .npy file. Without values, the model's inputs and outputs are printed. "
        f"The environment variable {TOKEN_VARIABLE} holds the API key or the token for a server that asks for one. "
        f"{ENVIRONMENT}",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.set_defaults(command=_call, command_parser=parser, further="inputs")
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    parser.add_argument("inputs", metavar="NAME=VALUE", nargs="*", help="an input")
    parser.add_argument("--server", metavar="ADDRESS", help=f"the server's gRPC address (default: {ADDRESS})")
    parser.add_argument("--signature", metavar="NAME", help="signature to call (default: serving_default)")
    parser.add_argument("--version", metavar="INT", type=int, help="version to call (default: the newest)")
    parser.add_argument("--timeout", metavar="SECONDS", type=_timeout, help="seconds to wait (default: 60)")
    add_tls_flags(parser)


def _call(parser: argparse.ArgumentParser, values: dict[str, Any]) -> int:
    del parser
    tls = None
    try:
        _check_form(values)
        address = checked_address(values.get("server", ADDRESS))
        tls = tls_of(values)
        timeout = values.get("timeout", 60.0)
        with Client(address, timeout=timeout, metadata=token_metadata(), credentials=credentials_of(tls)) as client:
            print(_answer(client, values))
    except (ServerError, ValueError) as error:
        text = told(error, tls) if isinstance(error, ServerError) else error
        print(f"headrace: the call failed: {text}", file=sys.stderr)
        return 1
    return 0


def _check_form(values: dict[str, Any]) -> None:
    """Refuses an address in place of a model or an input, and anything else that is not NAME=VALUE."""
    model = values["model"]
    if looks_like_address(model):
        raise ValueError(f"{model} is not a model's name; --server={model} names a server")
    for text in values.get("inputs", ()):
        if "=" not in text:
            hint = f"; --server={text} names a server" if looks_like_address(text) else ""
            raise ValueError(f"{text!r} is not of the form NAME=VALUE{hint}")


def _answer(client: Client, values: dict[str, Any]) -> str:
    model, version = values["model"], values.get("version")
    name = values.get("signature", "serving_default")
    signatures = client.metadata(model, version=version).signatures
    if name not in signatures:
        raise ValueError(f"{model} has no signature {name}: it has {', '.join(sorted(signatures))}")
    signature = signatures[name]
    if not values.get("inputs"):
        return f"{model}: {signature_line(signature)}"
    inputs: dict[str, np.ndarray] = {}
    for text in values["inputs"]:
        alias, array = _input(text, signature)
        if alias in inputs:
            raise ValueError(f"the input {alias} is given twice")
        inputs[alias] = array
    outputs = client.predict(model, inputs, version=version, signature=name)
    return json.dumps({alias: _plain(array) for alias, array in outputs.items()}, indent=1, ensure_ascii=False)


def signature_line(signature: Signature) -> str:
    """One line with the inputs and outputs of a signature, such as `X float32[?,4] -> label int64[?]`."""
    sides = (signature.inputs, signature.outputs)
    return " -> ".join(", ".join(f"{name} {spec}" for name, spec in side.items()) or "nothing" for side in sides)


def _input(text: str, signature: Signature) -> tuple[str, np.ndarray]:
    name, _, value = text.partition("=")
    if name not in signature.inputs:
        raise ValueError(f"the model has no input {name}; its signature is {signature_line(signature)}")
    spec = signature.inputs[name]
    read = _loaded(Path(value[1:])) if value.startswith("@") else _json(value)
    try:
        array = np.asarray(read, dtype=spec.dtype)
    except (TypeError, ValueError) as error:
        reason = f"{value!r} is not JSON" if read is value else error
        raise ValueError(f"{name} must be {spec}: {reason}") from error
    return name, array


def _loaded(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as opened:
            array = np.load(opened, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be a .npy file of numbers or strings") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} must be a .npy file, which has one array; it is a .npz file")
    return array


def _timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"--timeout must be a finite number above 0; was {text}")
    return seconds


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
