"""Turns off the telemetry of libraries before any of them is imported."""

import os

OFF = {
    # ONNX Runtime's Linux wheels since 1.29 write a device id under the user's home and send events to Microsoft.
    # Upstream: onnxruntime's docs/Privacy.md; the variable is read once, when the library is loaded.
    "ORT_DISABLE_TELEMETRY": "1",
}
"""Environment variables, each with the value that turns reports off."""


def turn_off() -> None:
    """Sets each variable that the user has not set; the user's own choice is kept."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
