"""Trace and log settings, stored and returned as Triton's clients expect. Codes and texts are Triton's.

Only the log level has an effect here, since headrace writes no traces in Triton's format.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from headrace_server.errors import ServingError, invalid, unimplemented

LogValue = bool | int | str
TraceValues = Mapping[str, Sequence[str]]

LOGGER = "headrace_server"

_LOG_DEFAULTS: Mapping[str, LogValue] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
_LOG_FORMATS = ("default", "ISO8601")
_KINDS: Mapping[type, str] = {bool: "boolean", int: "int32", str: "string"}

_TRACE_DEFAULTS: TraceValues = {
    "trace_file": ("",),
    "trace_level": ("OFF",),
    "trace_rate": ("1000",),
    "trace_count": ("-1",),
    "log_frequency": ("0",),
    "trace_mode": ("triton",),
}
_TRACE_NUMBERS = ("trace_rate", "trace_count", "log_frequency")
_TRACE_LEVELS = ("OFF", "TIMESTAMPS", "TENSORS")


class LogSettings:
    """The log settings. In one event loop."""

    def __init__(self) -> None:
        self._values = dict(_LOG_DEFAULTS)

    def read(self) -> Mapping[str, LogValue]:
        """Every setting."""
        return dict(self._values)

    def update(self, values: Mapping[str, Any]) -> None:
        """Sets some of the settings, or none; unknown ones are ignored, and None leaves a setting unchanged.

        Raises:
            ServingError: UNIMPLEMENTED for the log file, which must not be set over the network; INVALID_ARGUMENT for a
                value of another type.
        """
        if values.get("log_file") is not None:
            raise unimplemented("log file location can not be updated through network protocol")
        known = {name: value for name, value in values.items() if name in self._values and value is not None}
        for name, value in known.items():
            kind = type(_LOG_DEFAULTS[name])
            if type(value) is not kind:
                raise invalid(f"expect {_KINDS[kind]} for '{name}'")
        if known.get("log_format", "default") not in _LOG_FORMATS:
            raise invalid(f"invalid argument for log_format, got: {known['log_format']}")
        self._values |= known
        self._apply()

    def _apply(self) -> None:
        values = self._values
        levels = (
            (logging.DEBUG, values["log_verbose_level"]),
            (logging.INFO, values["log_info"]),
            (logging.WARNING, values["log_warning"]),
            (logging.ERROR, values["log_error"]),
        )
        level = next((level for level, wanted in levels if wanted), logging.CRITICAL)
        logging.getLogger(LOGGER).setLevel(level)


class TraceSettings:
    """The trace settings: those of all models, and those that single models have of their own. In one event loop."""

    def __init__(self) -> None:
        self._every = dict(_TRACE_DEFAULTS)
        self._own: dict[str, dict[str, Sequence[str]]] = {}

    def read(self, model: str) -> TraceValues:
        """Every setting, of one model or, for the empty name, of all."""
        return {**self._every, **self._own.get(model, {})}

    def update(self, model: str, values: TraceValues) -> None:
        """Sets some of the settings; a setting without a value returns to its previous one.

        Raises:
            ServingError: UNIMPLEMENTED for the trace file, INVALID_ARGUMENT for an invalid value.
        """
        known = {name: tuple(value) for name, value in values.items() if name in _TRACE_DEFAULTS}
        for name, value in known.items():
            if value:
                self._check(name, value)
        own = self._own.setdefault(model, {}) if model else self._every
        for name, value in known.items():
            if value:
                own[name] = value
            elif model:
                own.pop(name, None)
            else:
                own[name] = _TRACE_DEFAULTS[name]

    def _check(self, name: str, value: Sequence[str]) -> None:
        if name == "trace_file":
            raise unimplemented("trace file location can not be updated through network protocol")
        if name == "trace_level":
            self._check_levels(value)
            return
        if len(value) > 1:
            raise invalid(f"expect only 1 value for '{name}'")
        if name in _TRACE_NUMBERS and not value[0].removeprefix("-").isdecimal():
            raise self._unreadable(name, value[0])

    def _check_levels(self, levels: Sequence[str]) -> None:
        for level in levels:
            if level not in _TRACE_LEVELS:
                raise self._unreadable("trace_level", level)
        if any(level != "OFF" for level in levels) and not self._every["trace_file"][0]:
            raise invalid("Attempting to set invalid trace setting :trace file name is not given")

    def _unreadable(self, name: str, value: str) -> ServingError:
        return invalid(f"Unable to parse '{name}', got: {value}")
