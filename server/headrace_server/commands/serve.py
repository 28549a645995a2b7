"""`headrace serve`: turns paths and flags into a running server."""

import argparse
import logging
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from headrace_server.commands.collecting import fewer_collections
from headrace_server.commands.ending import status_of_run
from headrace_server.commands.flags import FLAGS, argument, config_of, value_of, warn_of_ignored
from headrace_server.config.run import Config
from headrace_server.config.security import LOOPBACK
from headrace_server.errors import ServingError, invalid

if TYPE_CHECKING:
    from headrace_server.commands.hints import Security
    from headrace_server.server import Server

log = logging.getLogger(__name__)


def add_command(commands: Any) -> None:
    """Adds the command to those of `headrace`.

    Args:
        commands: The object that `ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "serve",
        help="serve models",
        usage="headrace serve PATH... [--model_name=NAME] [--port=PORT] [--rest_api_port=PORT] [flags]\n"
        "       headrace serve --model_config_file=FILE [flags]",
        description="Serve models until SIGTERM or Ctrl-C. A PATH is a model's file (such as iris.onnx), a folder "
        "with such a file, a folder of numbered versions, or a folder of such models.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # only flags that were given appear in the result
    )
    parser.set_defaults(command=_serve, command_parser=parser, further="paths")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a model, or a folder of models")
    parser.add_argument("--check", action="store_true", help="load the models, run each one, warm them up, and exit")
    taken = parser.add_argument_group("flags")
    ignored = parser.add_argument_group("flags of TensorFlow Serving that have no effect here")
    for name, own in FLAGS.items():
        (ignored if own.metadata["ignored"] else taken).add_argument(f"--{name}", **argument(name, own))


def _serve(parser: argparse.ArgumentParser, values: dict[str, Any]) -> int:
    paths, checking = values.pop("paths", []), values.pop("check", False)
    if not (paths or values.get("model_base_path") or values.get("model_config_file")):
        parser.error("no model was given: name its file or its folder, as in `headrace serve iris.onnx`")
    if values.get("model_name") == "" and not values.get("model_config_file"):
        parser.error("--model_name must not be empty")
    return status_of_run("cannot start", lambda: _run(paths, values, checking=checking))


def _run(paths: list[str], values: dict[str, Any], *, checking: bool) -> None:
    """Imports the server only now, so that help texts and command line errors appear immediately."""
    with fewer_collections():
        from headrace_server.commands.log import log_to_stderr
        from headrace_server.commands.ports import refuse_taken_ports
        from headrace_server.commands.process import check, run
        from headrace_server.models.paths import find_models

    log_to_stderr(value_of("log_level", values), value_of("log_format", values))
    warn_of_ignored(values)
    if paths and ("model_base_path" in values or "model_config_file" in values):
        other = "model_base_path" if "model_base_path" in values else "model_config_file"
        raise invalid(f"{paths[0]} and --{other} both name models: give only one of them")
    models = find_models(paths, values.get("model_name", "")) if paths else ()
    config = config_of(values, models=models)
    if checking:
        print(_passed(check(config)))
        return
    refuse_taken_ports(config)
    run(config, lambda server: _say_what_serves(config, server))


def _say_what_serves(config: Config, server: "Server") -> None:
    """Logs the transport (headrace-native is about ten times as fast as grpcio), and the commands to type next."""
    from headrace_server.commands.hints import default_signatures, hints

    if server.transport == "native":
        log.info("gRPC is served by headrace-native %s", version("headrace-native"))
    else:
        why = "" if config.transport == "grpcio" else ": headrace-native, which is ten times as fast, is not installed"
        log.info("gRPC is served by grpcio %s%s", version("grpcio"), why)
    if is_open(config):
        log.info(
            "anybody on the network can call this server: --host=127.0.0.1 and --rest_api_host=127.0.0.1 limit it to "
            "this machine, and --auth_keys_file asks callers for a key"
        )
    for hint in hints(
        default_signatures(server.serving),
        config.port,
        config.rest_api_port,
        token=bool(config.auth.keys_file or config.auth.jwt_issuer),
        security=_security(config.ssl_config_file),
        rest_security=_security(config.rest_api_ssl_config_file),
    ):
        log.info(hint)


def _security(ssl_config_file: str) -> "Security":
    """What a port with this SSLConfig file asks callers for; if the file has just been removed, TLS."""
    from headrace_server.transports.grpc.tls import read_ssl_config

    if not ssl_config_file:
        return ""
    with suppress(ServingError):
        return "mutual" if read_ssl_config(ssl_config_file).client_verify else "tls"
    return "tls"


def _passed(ready: dict[str, list[int]]) -> str:
    """The result of a check that has found no fault."""
    models = (f"{name} {', '.join(map(str, versions))}" for name, versions in ready.items() if versions)
    return f"passed: every model loads and runs ({'; '.join(models) or 'there is none'})"


def is_open(config: Config) -> bool:
    """Whether callers on other machines need neither credentials nor a certificate."""
    if config.auth.is_on or config.ssl_config_file:
        return False
    hosts = [config.host] if config.port else []
    hosts += [config.rest_api_host] if config.rest_api_port else []
    return any(host not in LOOPBACK for host in hosts)
