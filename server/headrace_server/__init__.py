"""headrace's server, for programs that run it themselves: `Config` and `Server`.

Importing this package turns off the telemetry of the runtimes that it may load; see `headrace_server.telemetry`. The
classes are imported only on first use, since a command line that only shows its help needs none of them.
"""

from typing import TYPE_CHECKING, Any

from headrace_server import telemetry

if TYPE_CHECKING:
    from headrace_server.config.model_config import ModelConfig
    from headrace_server.config.run import Config
    from headrace_server.server import Server

__all__ = ["Config", "ModelConfig", "Server"]

_HOMES = {"Config": "config.run", "ModelConfig": "config.run", "Server": "server"}

telemetry.turn_off()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
