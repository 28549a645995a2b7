"""How models are fetched from stores other than folders."""

from dataclasses import dataclass

from headrace_server.config.flag import flag


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How models are fetched. Flags with the prefix `model_store_`."""

    cache: str = flag(
        "",
        "folder for downloaded models; if empty, the folder headrace in $XDG_CACHE_HOME or in ~/.cache",
    )
    cache_mb: int = flag(
        0, "MB of disk space for downloaded models; unused ones are deleted to make room; 0 means no limit", least=0
    )
    poll_seconds: float = flag(30.0, "seconds between two scans of a store for new versions", least=1)
    threads: int = flag(4, "threads that scan stores and download models", least=1)
