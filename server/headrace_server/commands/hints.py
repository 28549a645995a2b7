"""The hints that `headrace serve` prints once it serves: how to call a model."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from headrace_protos import DataType
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

LARGEST = 16
"""The maximum number of elements of an example: nobody types more by hand."""


Security = Literal["", "tls", "mutual"]
"""What a port asks callers for: nothing, TLS, or TLS with a certificate."""


def hints(
    serving: Mapping[str, Signature],
    port: int,
    rest_port: int,
    *,
    token: bool = False,
    security: Security = "",
    rest_security: Security = "",
) -> Iterator[str]:
    """The commands to type next: calls of the model whose inputs are the shortest to type.

    If the inputs of all models are too long to type, the commands show the inputs of the first model.

    Args:
        serving: The default signature of each model, by the model's name.
        port: The gRPC port; 0 if there is none.
        rest_port: The REST port; 0 if there is none.
        token: Whether callers must send an API key or a token.
        security: What the gRPC port asks for.
        rest_security: What the REST port asks for.
    """
    inputs = {name: _inputs(signature) for name, signature in serving.items()}
    typed = {name: values for name, values in inputs.items() if None not in values.values()}
    name = min(typed or inputs, key=lambda name: len(json.dumps(inputs[name])) if typed else 0, default=None)
    if name is None:
        return
    if port:
        given = "".join(f" '{alias}={json.dumps(value)}'" for alias, value in typed.get(name, {}).items())
        files = _files(security, "--tls_ca=...", "--tls_cert=... --tls_key=...")
        server = "" if port == 8500 else f" --server=localhost:{port}"
        yield f"try: {'HEADRACE_TOKEN=... ' if token else ''}headrace call {name}{given}{server}{files}"
    if rest_port:
        url = f"http{'s' if rest_security else ''}://localhost:{rest_port}/v1/models/{name}"
        body = json.dumps({"inputs": typed.get(name)})
        curl = f"try: curl{_files(rest_security, '--cacert ...', '--cert ... --key ...')}"
        curl += " -H 'Authorization: Bearer ...'" if token else ""
        yield f"{curl} -d '{body}' {url}:predict" if name in typed else f"{curl} {url}/metadata"


def _files(security: Security, trusted: str, shown: str) -> str:
    """The flags that name certificates, with a space before each."""
    return (f" {trusted}" if security else "") + (f" {shown}" if security == "mutual" else "")


def default_signatures(serving: Mapping[str, Mapping[int, Any]]) -> dict[str, Signature]:
    """The default signature of each model's newest version, by the model's name, without those that only stream."""
    newest = {name: versions[max(versions)] for name, versions in serving.items() if versions}
    every = {name: version.signatures for name, version in newest.items() if version.answers_once}
    return {name: found[DEFAULT_SIGNATURE] for name, found in every.items() if DEFAULT_SIGNATURE in found}


def _inputs(signature: Signature) -> dict[str, Any]:
    return {alias: _example(spec) for alias, spec in signature.inputs.items()}


def _example(spec: TensorSpec) -> Any:
    """An input value in which every open dimension is 1; None if it is too large to type, or its rank is open."""
    if spec.any_rank:
        return None
    count = 1
    for size in spec.shape:
        count *= size or 1
    if count > LARGEST:
        return None
    value: Any = "text" if spec.dtype == DataType.DT_STRING else spec.array_dtype.type(0).tolist()
    for size in reversed(spec.shape):
        value = [value] * (size or 1)
    return value
