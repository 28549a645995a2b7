"""Loads failed versions again once their files have changed, as when a copy is complete, or when a caller asks."""

import logging

from headrace_server.models.files_state import files_state
from headrace_server.models.versions import Clock, Model, Models

log = logging.getLogger(__name__)


class Retrying:
    """Loads failed versions again.

    A version is loaded again once its files differ from those of its last try, have not changed between two scans, and
    its pause is over. The pause doubles with each failure. Files that change between all scans, such as a log, do not
    delay a version for longer than a minute.

    In TF Serving with `enable_reload_servables_with_error`, a failed version is loaded again at every scan, even if
    nothing has changed.

    Args:
        models: The models whose versions have failed.
        clock: Measures the pauses.
    """

    def __init__(self, models: Models, clock: Clock) -> None:
        self._models = models
        self._clock = clock

    def look(self) -> None:
        """Looks at the files of every failed version. Called by one thread, after each scan for versions."""
        with self._models.changed:
            troubled = [(name, model) for name, model in self._models.by_name.items() if model.troubles]
            failed = [(name, model, version) for name, model in troubled for version in model.failed]
        for name, model, version in failed:
            if self._begin_anew(model, version):
                log.info("model %s version %d is loaded again: its files have changed since it failed", name, version)

    def begin(self, name: str) -> None:
        """Begins to load the failed versions of a model again, whether or not their files have changed. Any thread."""
        with self._models.changed:
            model = self._models.by_name.get(name)
            if model is not None and model.failed:
                for version in model.failed:
                    model.begin_anew(version)
                self._models.changed.notify_all()

    def _begin_anew(self, model: Model, version: int) -> bool:
        with self._models.changed:
            trouble, path = model.troubles.get(version), model.aspired.get(version)
        if trouble is None or path is None:
            return False
        files = files_state(path)
        ready = trouble.ready(files, self._clock.now())
        trouble.seen = files
        if not ready:
            return False
        with self._models.changed:
            if version not in model.failed:
                return False
            model.begin_anew(version)
            self._models.changed.notify_all()
            return True
