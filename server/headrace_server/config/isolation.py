"""How one model is kept from harming others: worker processes, and a limit on the duration of a run."""

from dataclasses import dataclass

from headrace_batching.option import option
from headrace_server.config.flag import flag


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationOptions:
    """Flags for all models, which are also keys of `[isolation]` in a model's `model.toml`."""

    python_workers: int = flag(
        1,
        "worker processes for each Python model; 0 runs it in the server's own process; model.toml can override this",
        least=0,
        most=64,
        for_all=True,
    )
    run_timeout: float = flag(0.0, "seconds after which a run of a model is abandoned; 0 means never", least=0)
    workers: int | None = option(
        None,
        "worker processes that run the model; 0 runs it in the server's own process",
        kind=int,
        nullable=True,
        least=0,
        most=64,
    )
    memory_limit_mb: int = option(0, "MB of memory that each of these processes may have; 0 means no limit", least=0)

    def workers_for(self, *, python: bool) -> int:
        """The number of worker processes: `workers` if set, otherwise the default, at least 1 if memory is limited."""
        if self.workers is not None:
            return self.workers
        default = self.python_workers if python else 0
        return max(1, default) if self.memory_limit_mb else default
