"""The end of versions: they are closed, and those that cannot be in time do not hold up who waits for it."""

import logging
from threading import Thread

from headrace_server.models.servable import Servable

log = logging.getLogger(__name__)

FREE_WITHIN = 10.0
"""Seconds that whoever unloads waits for the calls of a version, and for its runtime, before it goes on."""


def free_in_time(servable: Servable) -> bool:
    """Closes a version, which may wait for a run that hangs; whether it has been closed in time."""
    freeing = Thread(target=free, args=(servable,), name=f"free-{servable.name}-{servable.version}", daemon=True)
    freeing.start()
    freeing.join(FREE_WITHIN)
    if freeing.is_alive():
        log.warning("model %s version %d is freed when its last run ends", servable.name, servable.version)
    return not freeing.is_alive()


def free(servable: Servable) -> None:
    """Closes a version; one that cannot be closed is nevertheless gone."""
    try:
        servable.close()
    except Exception:
        log.exception("model %s version %d cannot be freed", servable.name, servable.version)
