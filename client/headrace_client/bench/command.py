"""The `headrace bench` command. Importing this takes little time: everything else is imported when the command runs."""

import argparse
import sys
from typing import Any

from headrace_client.tls import ENVIRONMENT, add_tls_flags
from headrace_client.token import TOKEN_VARIABLE

FLAGS = {
    "the requests": {
        "model": ("NAME[=WEIGHT]", "a model to call; if repeated, calls are mixed by weight"),
        "api": (
            "NAME",
            "predict (TF Serving's), infer (Open Inference's), rest-predict, rest-infer, or auto: the first that works "
            "(default: auto)",
        ),
        "signature": ("NAME", "signature of a Predict (default: serving_default)"),
        "version": ("INT", "version to call (default: the newest)"),
        "inputs": ("[NAME=]FILE", ".npz file with an array for each input (default: random arrays)"),
        "rows": ("INT,...", "rows of a request; several sizes are mixed (default: 1)"),
        "log": ("FILE", "send the requests of a log: a TFRecord file of PredictionLogs, as headrace writes them"),
        "metadata": ("NAME=VALUE", "sent with every call, such as authorization='Bearer ...'; may be repeated"),
    },
    "the load": {
        "concurrency": ("INT,...", "closed loop: callers that call again as soon as they are answered (default: "
        "1,4,16,64)"),
        "rate": ("FLOAT,...", "open loop: calls per second, however fast the server answers"),
        "arrivals": ("poisson|constant|recorded", "how the calls of an open loop are spread (default: poisson)"),
        "speed": ("FLOAT,...", "speed at which a recorded load is replayed, as a factor (default: 1)"),
        "seconds": ("TIME", "duration of each measurement (default: 5s)"),
        "warmup": ("TIME", "duration of the warm-up before each measurement (default: 1s)"),
        "timeout": ("TIME", "timeout of a call (default: 10s)"),
        "connections": ("INT", "connections (default: up to 4)"),
        "threads": ("INT", "threads of the load generator (default: 1)"),
        "seed": ("INT", "seed for all random numbers (default: 1)"),
        "rounds": ("INT", "number of measurements of each point; the median is reported (default: 1)"),
    },
    "the results": {
        "limit": ("TIME", "count the calls that are answered within this time, such as 20ms"),
        "json": ("FILE", "write all numbers to this file"),
        "png": ("FILE", "write a chart to this file"),
        "html": ("FILE", "write a self-contained page to this file"),
    },
}  # fmt: skip

_REPEATED = ("model", "inputs", "metadata")


def add_command(commands: Any) -> None:
    """Adds the command to those of `headrace`.

    Args:
        commands: The object that `ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "bench",
        help="measure a server under load",
        usage="headrace bench [SERVER | --server=SERVER] --model=NAME [--concurrency=INT,...] [--rate=FLOAT,...] "
        "[flags]\n"
        "       headrace bench --compare A B --model=NAME [flags]",
        description="Put load on a server and report how many calls it answers, and how fast. The server can be "
        "headrace, TensorFlow Serving, Triton, or any other server with one of their APIs. Latencies "
        "count from the planned start of a call. "
        f"The environment variable {TOKEN_VARIABLE} holds the API key or the token for a server that asks for one. "
        f"{ENVIRONMENT}",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.set_defaults(command=_bench, command_parser=parser)
    text = "the server's gRPC address, or its REST address with --api=rest-... (default: localhost:8500 or :8501)"
    parser.add_argument("address", metavar="SERVER", nargs="?", help=text)
    parser.add_argument("--server", metavar="SERVER", help="the same as SERVER")
    parser.add_argument("--compare", metavar=("A", "B"), nargs=2, help="measure two servers in turn")
    add_tls_flags(parser.add_argument_group("TLS"))
    for title, flags in FLAGS.items():
        group = parser.add_argument_group(title)
        for name, (metavar, text) in flags.items():
            action = "append" if name in _REPEATED else "store"
            group.add_argument(f"--{name}", metavar=metavar, help=text, action=action)


def _bench(parser: argparse.ArgumentParser, values: dict[str, Any]) -> int:
    del parser
    from headrace_client.bench.errors import BenchError
    from headrace_client.bench.session import bench

    try:
        bench(values)
    except BenchError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("headrace: interrupted", file=sys.stderr)
        return 130
    return 0
