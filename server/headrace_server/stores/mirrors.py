"""Scans the stores of all models periodically, several at a time, and waits longer after an error."""

import logging
import math
import os
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Condition, Thread

from headrace_server.config.stores import StoreOptions
from headrace_server.stores.base import StoreError, without_secrets
from headrace_server.stores.cache import Cache
from headrace_server.stores.fetching import Fetching
from headrace_server.stores.mirror import Choose, Mirror
from headrace_server.stores.uris import open_store

log = logging.getLogger(__name__)

LONGEST_PAUSE = 300.0
"""Seconds between two scans of a store that returns errors."""


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Listeners for the results of stores. Any thread.

    Attributes:
        fetched: Called with a model's name and the number of bytes that have arrived.
        failed: Called with the name of a model whose store returned an error.
    """

    fetched: Callable[[str, int], None] = lambda _name, _size: None
    failed: Callable[[str], None] = lambda _name: None


@dataclass(slots=True)
class _Watched:
    """One model's store, and the time of its next scan.

    While a scan runs, only its thread uses `mirror`, `failures` and `said`.
    """

    uri: str
    choose: Choose
    path: Path
    due: float = 0.0
    running: bool = False
    mirror: Mirror | None = None
    failures: int = 0
    said: str = ""


class Mirrors:
    """Maintains a base path on this machine for each model that is in a store.

    Args:
        options: How often stores are scanned, how many at a time, and the folder of the cache.
        changed: Called when a base path has changed.
        counts: Called with the results of stores.
        clock: Returns the time, in seconds.
    """

    def __init__(
        self,
        options: StoreOptions,
        changed: Callable[[], None],
        counts: StoreCounts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._tell = changed
        self._counts = counts or StoreCounts()
        self._clock = clock
        self._cache = Cache(cache_folder(options), options.cache_mb << 20)
        self._woken = Condition()
        self._watched: dict[str, _Watched] = {}
        self._leaving: dict[Path, _Watched] = {}  # not wanted anymore, but not removed yet
        self._stopping = False
        self._thread: Thread | None = None
        self._pool: ThreadPoolExecutor | None = None

    def path(self, name: str, uri: str) -> Path:
        """The base path on this machine of a model that is in a store."""
        return self._cache.model(name, uri)

    def watch(self, name: str, uri: str, choose: Choose) -> None:
        """Watches a model's store from now on; if it is watched already, its next scan is due when it was before.

        Any thread.

        Args:
            name: The model's name.
            uri: The URI of the model.
            choose: Chooses the wanted versions. Objects that always choose the same must be equal.
        """
        with self._woken:
            known = self._watched.get(name)
            if known is not None and (known.uri, known.choose) == (uri, choose):
                return
            if known is not None and known.uri != uri:
                self._leaving[known.path] = known
                known = None
            if known is None:
                path = self.path(name, uri)
                leaving = self._leaving.pop(path, None)
                known = self._watched[name] = leaving or _Watched(uri, choose, path)
            known.choose, known.due = choose, 0.0
            self._start()
            self._woken.notify_all()

    def keep(self, names: Collection[str]) -> None:
        """Stops watching all models except these, and removes the base paths of the others. Any thread."""
        with self._woken:
            for name in self._watched.keys() - set(names):
                gone = self._watched.pop(name)
                self._leaving[gone.path] = gone
            for gone in list(self._leaving.values()):
                if not gone.running:
                    self._remove(gone)

    def stop(self) -> None:
        """Stops watching and cancels fetches, which the next run resumes."""
        with self._woken:
            self._stopping = True
            self._woken.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._pool is not None:
            self._pool.shutdown()

    def _start(self) -> None:
        if self._thread is None and not self._stopping:
            self._pool = ThreadPoolExecutor(self._options.threads, "store")
            self._thread = Thread(target=self._watch, name="stores", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        assert self._pool is not None
        with self._woken:
            while not self._stopping:
                now = self._clock()
                for name, watched in list(self._watched.items()):
                    if not watched.running and watched.due <= now:
                        watched.running, watched.due = True, math.inf
                        self._pool.submit(self._look, name, watched)
                due = min((each.due for each in self._watched.values() if not each.running), default=None)
                self._woken.wait(None if due is None else max(0.0, due - now))

    def _look(self, name: str, watched: _Watched) -> None:
        try:
            self._cache.start()
            if watched.mirror is None:
                watched.mirror = self._mirror(name, watched)
            changed = watched.mirror.look()
        except Exception as error:  # any error of a store must leave the served models running
            self._failed(name, watched, error)
            return
        if watched.said:
            log.info("model %s: %s can be read again", name, without_secrets(watched.uri))
        if changed:
            self._tell()
        watched.said, watched.failures = "", 0
        self._again(watched, self._options.poll_seconds)

    def _mirror(self, name: str, watched: _Watched) -> Mirror:
        store = open_store(watched.uri)
        fetched = partial(self._counts.fetched, name)
        fetching = Fetching(watched.uri, store, self._cache, fetched, lambda: self._stopping)
        return Mirror(
            watched.uri, fetching, store.list, self._cache, watched.path, lambda versions: watched.choose(versions)
        )

    def _failed(self, name: str, watched: _Watched, error: Exception) -> None:
        self._counts.failed(name)
        text = str(error) if isinstance(error, StoreError) else without_secrets(f"{watched.uri}: {error!r}")
        watched.failures += 1
        pause = min(2.0 ** (watched.failures - 1), LONGEST_PAUSE)
        if text != watched.said and not self._stopping:
            log.error("model %s cannot be fetched (the next try is in %.0f s): %s", name, pause, text)
        watched.said = text
        self._again(watched, pause)

    def _again(self, watched: _Watched, pause: float) -> None:
        """Ends a scan, and schedules the next one unless the model is not wanted anymore."""
        with self._woken:
            watched.due, watched.running = min(watched.due, self._clock() + pause), False
            if self._leaving.get(watched.path) is watched:
                self._remove(watched)
            self._woken.notify_all()

    def _remove(self, gone: _Watched) -> None:
        del self._leaving[gone.path]
        if gone.mirror is not None:
            gone.mirror.forget()


def cache_folder(options: StoreOptions) -> Path:
    """The folder of fetched models."""
    if options.cache:
        return Path(options.cache)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "headrace"
