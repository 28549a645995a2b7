"""Declares options that are also flags of the command line; what both commands show and parse is derived from them."""

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
        default: The value if the flag is not given.
        help_text: One line, without a full stop.
        name: The flag's name, if it is not the field's name with the prefix of its group.
        tensorflow: The default of `tensorflow_model_server`, if it differs.
        int64: Whether an integer may have 64 bits instead of 32.
        ignored: The reason why the flag has no effect. Such a flag exists only so that users of TF Serving can keep it.
        by_cpus: Whether the default is computed from the number of CPUs.
        rule: Attributes of `headrace_batching.option.Rule`: the values that are allowed.
    """
    metadata = {"flag": True, "flag_name": name, "int64": int64, "ignored": ignored, "by_cpus": by_cpus}
    return option(
        default, help_text, metadata={**metadata, "tensorflow": default if tensorflow is None else tensorflow}, **rule
    )


def flags_of(kind: Any, prefix: str = "") -> dict[str, Field[Any]]:
    """The flags of a dataclass by name and in order, including those of its fields that are groups of options."""
    flags: dict[str, Field[Any]] = {}
    for own in fields(kind):
        if "prefix" in own.metadata:
            flags |= flags_of(own.default_factory, own.metadata["prefix"])
        elif "flag" in own.metadata:
            flags[name_of_flag(own, prefix)] = own
    return flags


def name_of_flag(own: Field[Any], prefix: str = "") -> str:
    """The name of an option's flag, or, for an option that is not a flag, its own name with the prefix."""
    return own.metadata.get("flag_name") or prefix + own.name
