"""`headrace models`: lists the versions that a server has, with the state and the signature of each."""

import argparse
import sys
from typing import Any

import grpc

from headrace_client import Client, ServerError
from headrace_client.channels.grpcio_impl import failed
from headrace_client.tls import ENVIRONMENT, Tls, add_tls_flags, credentials_of, tls_of, told
from headrace_client.token import TOKEN_VARIABLE, token_metadata
from headrace_protos.inference.grpc_service_pb2 import (
    ModelConfigRequest,
    ModelConfigResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
)
from headrace_server.commands.call import (
    ADDRESS,
    server_of,
    signature_line,
)
from headrace_server.services.open_inference.names import BATCHING

INDEX = "/inference.GRPCInferenceService/RepositoryIndex"
CONFIG = "/inference.GRPCInferenceService/ModelConfig"


def add_command(commands: Any) -> None:
    """Adds the command to those of `headrace`.

    Args:
        commands: The object that `ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "models",
        help="list the models of a server",
        usage="headrace models [SERVER | --server=SERVER]",
        description="List the versions that a server has, with their states, inputs and outputs, and whether requests "
        "share batches. "
        f"The environment variable {TOKEN_VARIABLE} holds the API key or the token for a server that asks for one. "
        f"{ENVIRONMENT}",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.set_defaults(command=_models, command_parser=parser)
    text = f"the server's gRPC address (default: {ADDRESS})"
    parser.add_argument("address", metavar="SERVER", nargs="?", help=text)
    parser.add_argument("--server", metavar="SERVER", help="the same as SERVER")
    add_tls_flags(parser)


def _models(parser: argparse.ArgumentParser, values: dict[str, Any]) -> int:
    del parser
    address, tls = "", None
    try:
        address, tls = server_of(values), tls_of(values)
        lines = _lines(address, tls)
    except ValueError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"headrace: the call to the server at {address} failed: {told(failed(error), tls)}", file=sys.stderr)
        return 1
    print("\n".join(lines) or "no models")
    return 0


def _lines(address: str, tls: Tls | None) -> list[str]:
    secrets = credentials_of(tls)
    opened = grpc.insecure_channel(address) if secrets is None else grpc.secure_channel(address, secrets)
    with opened as channel:
        index = channel.unary_unary(
            INDEX,
            request_serializer=RepositoryIndexRequest.SerializeToString,
            response_deserializer=RepositoryIndexResponse.FromString,
        )(RepositoryIndexRequest(), timeout=30, metadata=token_metadata())
        with Client(address, timeout=30, metadata=token_metadata(), credentials=secrets) as client:
            return [_line(client, model, _batching(channel, model)) for model in index.models]


def _batching(channel: grpc.Channel, model: RepositoryIndexResponse.ModelIndex) -> dict[str, str]:
    """How requests of each of a version's signatures are run, by name; empty if the server does not say."""
    if model.reason:  # asking would load the model
        return {}
    ask = channel.unary_unary(
        CONFIG,
        request_serializer=ModelConfigRequest.SerializeToString,
        response_deserializer=ModelConfigResponse.FromString,
    )
    try:
        request = ModelConfigRequest(name=model.name, version=model.version)
        parameters = ask(request, timeout=30, metadata=token_metadata()).config.parameters
    except grpc.RpcError:
        return {}
    said = {key: value.string_value for key, value in parameters.items() if key.startswith(BATCHING)}
    return {key.removeprefix(BATCHING): text for key, text in said.items()}


def _line(client: Client, model: RepositoryIndexResponse.ModelIndex, batching: dict[str, str]) -> str:
    head = f"{model.name} v{model.version}" if model.version else model.name
    if model.state != "READY" or model.reason:
        return f"{head}: {model.state}{f' ({model.reason})' if model.reason else ''}"
    try:
        signatures = client.metadata(model.name, version=int(model.version)).signatures
    except (ServerError, ValueError) as error:
        return f"{head}: {model.state} ({error})"
    entries = [
        f"{'' if len(signatures) == 1 else f'{name}: '}{signature_line(own)}"
        + (f" ({batching[name]})" if name in batching else "")
        for name, own in signatures.items()
    ]
    return f"{head}: {'; '.join(entries)}"
