"""How models are fetched from stores that are no folders."""

from dataclasses import dataclass

from headrace_server.config.flag import flag

PREFIX = "model_store_"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How models are fetched. Flags with the prefix `model_store_`."""

    cache: str = flag(
        "",
        "folder for models that are fetched; empty is headrace in $XDG_CACHE_HOME, or in ~/.cache",
    )
    cache_mb: int = flag(
        0, "MB that fetched models may take on the disk; what nobody uses makes room; 0 is no limit", least=0
    )
    poll_seconds: float = flag(30.0, "seconds between two looks at a store for new versions", least=1)
    threads: int = flag(4, "models that are looked for and fetched at once", least=1)
