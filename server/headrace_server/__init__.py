"""headrace's server, for programs that run it themselves: a Config, and a Server made from it."""

from headrace_server.config.run import Config, ModelConfig
from headrace_server.server import Server

__all__ = ["Config", "ModelConfig", "Server"]
