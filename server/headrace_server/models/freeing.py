"""Closes versions; a version that cannot be closed in time does not delay the work that waits for it."""

import logging
from threading import Thread

from headrace_server.models.servable import Servable
from headrace_server.processes.time_slices import give_way

log = logging.getLogger(__name__)

FREE_WITHIN = 10.0
"""Seconds that an unload waits for a version's calls and for its runtime before it continues."""


def free_in_time(servable: Servable) -> bool:
    """Closes a version, which may wait for a run that hangs, and returns whether it was closed in time."""

    def run() -> None:
        give_way()
        free(servable)

    freeing = Thread(target=run, name=f"free-{servable.name}-{servable.version}", daemon=True)
    try:
        freeing.start()
    except RuntimeError:  # the system has no thread left; the end of this version may give one back
        free(servable)
        return True
    freeing.join(FREE_WITHIN)
    if freeing.is_alive():
        log.warning("model %s version %d is freed when its last run ends", servable.name, servable.version)
    return not freeing.is_alive()


def free(servable: Servable) -> None:
    """Closes a version; an error is only logged."""
    try:
        servable.close()
    except Exception:
        log.exception("model %s version %d cannot be freed", servable.name, servable.version)
