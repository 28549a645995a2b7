"""Asks a server whether it is ready: `python -m headrace_client.health localhost:8500` exits with status 0 if so."""

import argparse
from collections.abc import Sequence

import grpc

_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}


def is_serving(target: str, *, timeout: float = 3.0) -> bool:
    """Whether a server answers that every configured model has a version ready.

    Returns false if the server says otherwise, has no health service, cannot be reached, or takes longer than `timeout`
    seconds. `target` is a gRPC target; nothing is encrypted.
    """
    with grpc.insecure_channel(target) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_CHECK)
        try:
            return check(b"", timeout=timeout) == _SERVING
        except grpc.RpcError:
            return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 for a server that is ready, 1 for any other."""
    parser = argparse.ArgumentParser(prog="headrace_client.health", description="Ask a server whether it is ready.")
    parser.add_argument(
        "target", nargs="?", default="localhost:8500", help="gRPC target, such as localhost:8500 (the default)"
    )
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="3 by default")
    options = parser.parse_args(arguments)
    return 0 if is_serving(options.target, timeout=options.timeout) else 1


if __name__ == "__main__":
    raise SystemExit(main())
