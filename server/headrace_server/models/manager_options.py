"""How a manager loads versions: how many at the same time, how often, in which order, and how many may be in memory."""

from dataclasses import dataclass

from headrace_batching.cpus import schedulable_cpus
from headrace_server.config.run import Config
from headrace_server.models.room import Bounds
from headrace_server.models.version_policy import POLICIES, preserve_availability
from headrace_server.models.versions import Policy

NO_BOUNDS = Bounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerOptions:
    """How versions are loaded: TF Serving's flags of the same names.

    Attributes:
        num_load_threads: The maximum number of loads at the same time; 0 means one at a time, on the manager's own
            thread, which does nothing else during a load.
        num_unload_threads: The maximum number of unloads at the same time; 0 means the same as for loads.
        num_initial_load_threads: The maximum number of loads at the same time until the manager's
            `initial_load_done` is called.
        max_num_load_retries: The maximum number of tries after the first failure.
        retries_faulty_files: Whether a load that failed because of the version's files is tried again although they
            have not changed. TF Serving does so.
        load_retry_interval: Seconds between two tries.
        policy: Decides what to do next for one model.
        bounds: The limits on versions in memory; without them, every version is loaded as it appears, otherwise when it
            is called.
    """

    num_load_threads: int = 0
    num_unload_threads: int = 0
    num_initial_load_threads: int = 0
    max_num_load_retries: int = 0
    retries_faulty_files: bool = True
    load_retry_interval: float = 0.0
    policy: Policy = preserve_availability
    bounds: Bounds = NO_BOUNDS

    @classmethod
    def of(cls, config: Config) -> "ManagerOptions":
        """The options for loading in a server's configuration."""
        return cls(
            num_load_threads=config.num_load_threads,
            num_unload_threads=config.num_unload_threads,
            num_initial_load_threads=4 * schedulable_cpus(),
            max_num_load_retries=config.max_num_load_retries,
            retries_faulty_files=not config.models,  # not for `headrace serve PATH`: its user waits for the error
            load_retry_interval=max(0, config.load_retry_interval_micros) / 1e6,
            policy=POLICIES[config.aspired_version_policy],
            bounds=Bounds.of(config),
        )
