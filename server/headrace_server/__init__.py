"""headrace's server, for programs that run it themselves: a Config, and a Server made from it.

Importing it turns off the telemetry of the runtimes that it may load; see `headrace_server.telemetry`.
"""

from headrace_server import telemetry
from headrace_server.config.run import Config, ModelConfig
from headrace_server.server import Server

__all__ = ["Config", "ModelConfig", "Server"]

telemetry.turn_off()
