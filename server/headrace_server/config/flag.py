"""An option that is also a flag of the command line; what both commands show and read follows from it."""

from dataclasses import Field, fields
from typing import Any

from headrace_batching.option import option


def flag(
    default: Any,
    help_text: str,
    *,
    name: str = "",
    tensorflow: Any = None,
    int64: bool = False,
    ignored: str = "",
    by_cpus: bool = False,
    **rule: Any,
) -> Any:
    """An option that is also a flag.

    Args:
        default: Its value where the flag is not given.
        help_text: One line, without a full stop.
        name: The flag's name, where it is not that of the field behind the prefix of its group.
        tensorflow: The default of `tensorflow_model_server`, where that is another.
        int64: Whether a whole number may have 64 bits, not 32.
        ignored: Why it changes nothing, for a flag that is there only so that TF Serving's users may keep it.
        by_cpus: Whether its default is computed from the number of CPUs.
        rule: Attributes of `Rule`: the values that it may have.
    """
    metadata = {"flag": True, "flag_name": name, "int64": int64, "ignored": ignored, "by_cpus": by_cpus}
    return option(
        default, help_text, metadata={**metadata, "tensorflow": default if tensorflow is None else tensorflow}, **rule
    )


def flags_of(kind: Any, prefix: str = "") -> dict[str, Field[Any]]:
    """The flags of a dataclass by name, those of its fields that hold options of their own among them, in order."""
    flags: dict[str, Field[Any]] = {}
    for own in fields(kind):
        if "prefix" in own.metadata:
            flags |= flags_of(own.default_factory, own.metadata["prefix"])
        elif "flag" in own.metadata:
            flags[name_of_flag(own, prefix)] = own
    return flags


def name_of_flag(own: Field[Any], prefix: str = "") -> str:
    """The name of an option's flag; that of the option itself, with the prefix, for one that is no flag."""
    return own.metadata.get("flag_name") or prefix + own.name
