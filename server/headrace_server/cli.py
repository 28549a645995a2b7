"""Flags, by TF Serving's names, to one Config; and a server run until it is told to stop."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from difflib import get_close_matches
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NoReturn

from headrace_protos import Code
from headrace_server.config import Config
from headrace_server.errors import ServingError, status_of
from headrace_server.server import Server

log = logging.getLogger("headrace")

# TF Serving's flags that this version does not know what to do with: better refused than ignored.
NOT_YET = frozenset(
    """
    grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
    flush_filesystem_caches saved_model_tags
    enable_signature_method_name_check enable_grpc_healthcheck_service enable_profiler monitoring_config_file
    ssl_config_file use_alts_credentials grpc_max_threads platform_config_file tensorflow_session_config_file
    per_process_gpu_memory_fraction thread_pool_factory_config_file mixed_precision
    remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools num_tflite_interpreters_per_pool
    xla_cpu_compilation_enabled xla_gpu_compilation_enabled skip_initialize_tpu
    """.split()
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The `headrace` command; returns its exit status."""
    parser = _parser()
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        given.command_parser.error(_explain(unknown[0]))
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"
    )
    config = Config(**{name: value for name, value in vars(given).items() if name in _flags()})
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config))


async def _serve(config: Config) -> int:
    """Runs a server until SIGTERM or SIGINT; 1 if it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        server = Server(config)
        if await _started(server, stop):
            await stop.wait()
            log.info("draining: no new calls")
        await server.stop()
    except ServingError as error:
        code, text = status_of(error)
        print(f"headrace: cannot start: {Code.Name(code)}: {text}", file=sys.stderr)
        return 1
    return 0


async def _started(server: Server, stop: asyncio.Event) -> bool:
    """Whether the server started before it was told to stop.

    Raises:
        ServingError: It cannot start.
    """
    starting = asyncio.ensure_future(server.start())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    for future in (starting, stopping):
        future.cancel()
    with suppress(asyncio.CancelledError):
        await starting
        return True
    return False


class _Parser(argparse.ArgumentParser):
    """A parser whose errors end in a hint rather than in the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="headrace", description="Serve ONNX models over TensorFlow Serving's gRPC API.")
    parser.add_argument("--version", action="version", version=f"headrace {version('headrace')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve", help="serve models", description="Serve models until SIGTERM.", allow_abbrev=False
    )
    serve.set_defaults(command_parser=serve)
    for name, field in _flags().items():
        default = field.default
        kind: dict[str, Any] = {"type": type(default), "metavar": type(default).__name__.upper()}
        if isinstance(default, bool):
            kind = {"type": _boolean, "nargs": "?", "const": True, "metavar": "true|false"}
        serve.add_argument(
            f"--{name}", default=default, help=f"{field.metadata['help']} (default: {_shown(default)})", **kind
        )
    return parser


def _flags() -> dict[str, Any]:
    return {field.name: field for field in fields(Config) if "help" in field.metadata}


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false") from None


def _shown(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default) or "none"


def _explain(argument: str) -> str:
    name = argument.lstrip("-").partition("=")[0]
    if not argument.startswith("-"):
        return f"unexpected argument {argument!r}"
    if name in NOT_YET:
        return f"--{name} is a flag of TensorFlow Serving that this version does not support yet"
    close = get_close_matches(name, _flags(), n=1)
    return f"unknown flag --{name}" + (f"; did you mean --{close[0]}?" if close else "")


def _loop_factory() -> Any:
    """Uvloop's event loop where it is installed, which spares about a seventh of a call's CPU."""
    if find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop
