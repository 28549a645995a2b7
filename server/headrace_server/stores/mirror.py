"""Makes one model's store a base path on this machine, in which only complete versions appear."""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from headrace_server.config.model_toml import MODEL_FILE
from headrace_server.stores.base import Changed, Listing, RemoteFile
from headrace_server.stores.cache import Cache, key_of, write_whole
from headrace_server.stores.fetching import Fetching

_VERSION = re.compile(r"[0-9]{1,18}")
NUMBERS = "numbers.json"
ONE_FILE = (".onnx", ".plan", ".engine", ".tflite")

Choose = Callable[[Collection[int]], Sequence[int]]
"""Given the versions that exist, returns those that are wanted, the highest first."""


@dataclass(frozen=True, slots=True)
class Found:
    """The versions in a listing.

    Attributes:
        versions: The files of each version, with paths below the version's folder.
        beside: The files next to the versions' folders.
    """

    versions: Mapping[int, tuple[RemoteFile, ...]]
    beside: tuple[RemoteFile, ...] = ()


def numbered(files: Sequence[RemoteFile]) -> Found | None:
    """The versions of a base path: the content of folders with numbers; None if there are none."""
    versions: dict[int, list[RemoteFile]] = {}
    beside = []
    for file in files:
        first, *rest = PurePosixPath(file.path).parts or ("",)
        if rest and _VERSION.fullmatch(first):
            versions.setdefault(int(first), []).append(replace(file, path="/".join(rest), key=file.key or file.path))
        elif not rest:
            beside.append(file)
    if not versions:
        return None
    return Found({version: tuple(files) for version, files in versions.items()}, tuple(beside))


def _with_a_known_name(files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The files of one version; a single model file is renamed, such as `iris.onnx` to `model.onnx`."""
    models = [file for file in files if PurePosixPath(file.path).suffix in ONE_FILE and "/" not in file.path]
    if len(models) != 1:
        return tuple(files)
    name = f"model{PurePosixPath(models[0].path).suffix}"
    return tuple(replace(file, path=name, key=file.key or file.path) if file is models[0] else file for file in files)


class Mirror:
    """A model's versions as they are in its store. Used by one thread at a time.

    Args:
        uri: The URI of the store.
        fetching: Fetches from the store.
        list_store: Lists the store.
        cache: Holds the fetched files.
        base_path: The base path in which the versions appear, as links to the fetched files.
        choose: Chooses the wanted versions.
    """

    def __init__(
        self,
        uri: str,
        fetching: Fetching,
        list_store: Callable[[], Listing],
        cache: Cache,
        base_path: Path,
        choose: Choose,
    ) -> None:
        self._uri = uri
        self._fetching = fetching
        self._list = list_store
        self._cache = cache
        self._base_path = base_path
        self._choose = choose
        self._seen: Mapping[int, str] = {}
        self._pinned: set[str] = set()

    def look(self) -> bool:
        """Fetches the wanted versions into the base path, and removes those that the store no longer has.

        Returns: Whether anything changed.

        Raises:
            StoreError: The store cannot be read; the base path does not change.
        """
        self._base_path.mkdir(parents=True, exist_ok=True)
        for key in self._linked():
            self._pin(key)  # an earlier run of the server has fetched it
        listing = self._list()
        found = numbered(listing.files)
        if found is not None:
            return self._show_found(found, settled=listing.settled)
        if not listing.files:
            raise Changed(f"{self._uri}: there are no files below it")
        if any(file.unpack for file in listing.files):
            return self._show_packed(listing)
        files = _with_a_known_name(listing.files)
        number = listing.version or self._number_of(key_of(self._uri, files))
        model_file = tuple(file for file in files if file.path == MODEL_FILE)
        return self._show_found(Found({number: files}, model_file), settled=listing.settled)

    def _show_found(self, found: Found, *, settled: bool) -> bool:
        wanted = self._choose(found.versions)
        keys = {version: key_of(self._uri, found.versions[version]) for version in wanted}
        before, self._seen = self._seen, keys
        folders = {}
        for version in wanted:
            if not (settled or before.get(version) == keys[version] or self._cache.content(keys[version])):
                continue  # somebody may still be writing it: wait for the next scan
            folder = self._fetch(found.versions[version])
            if folder is not None:
                folders[version] = folder
        self._bring_beside(found.beside)
        return self._show(folders, gone=self._shown() - set(found.versions))

    def _show_packed(self, listing: Listing) -> bool:
        folder = self._fetch(listing.files)
        if folder is None:
            return False
        versions = {int(name): folder / name for name in os.listdir(folder) if _VERSION.fullmatch(name)}
        if not versions:
            number = listing.version or self._number_of(key_of(self._uri, listing.files))
            versions = {number: folder}
        if (folder / MODEL_FILE).exists():
            self._write_beside((folder / MODEL_FILE).read_bytes())
        wanted = set(self._choose(versions))
        return self._show(
            {version: path for version, path in versions.items() if version in wanted},
            gone=self._shown() - set(versions),
        )

    def _fetch(self, files: Sequence[RemoteFile]) -> Path | None:
        """Fetches files, which stay in the cache at least until the end of this scan."""
        self._pin(key_of(self._uri, files))
        return self._fetching.fetch(files)

    def _bring_beside(self, files: Sequence[RemoteFile]) -> None:
        """Fetches the `model.toml` next to the versions; other files there are ignored."""
        for file in files:
            if file.path == MODEL_FILE:
                folder = self._fetch([file])
                if folder is not None:
                    self._write_beside((folder / MODEL_FILE).read_bytes())

    def _write_beside(self, content: bytes) -> None:
        target = self._base_path / MODEL_FILE
        if target.exists() and target.read_bytes() == content:
            return
        write_whole(target, content)

    def _show(self, folders: Mapping[int, Path], gone: Collection[int]) -> bool:
        changed = False
        for version, folder in folders.items():
            link = self._base_path / str(version)
            if link.is_symlink() and os.readlink(link) == str(folder):
                continue
            new = self._base_path / f".{version}.new"
            new.unlink(missing_ok=True)
            new.symlink_to(folder)
            new.replace(link)
            changed = True
        for version in gone:
            (self._base_path / str(version)).unlink(missing_ok=True)
            changed = True
        self._unpin_all_but(self._linked())
        return changed

    def _shown(self) -> set[int]:
        return {int(name) for name in os.listdir(self._base_path) if _VERSION.fullmatch(name)}

    def _linked(self) -> set[str]:
        """The keys of the contents that the base path links to."""
        contents = self._cache.root / "contents"
        targets = (Path(os.readlink(self._base_path / str(version))) for version in self._shown())
        return {target.relative_to(contents).parts[0] for target in targets if target.is_relative_to(contents)}

    def _pin(self, key: str) -> None:
        if key not in self._pinned:
            self._pinned.add(key)
            self._cache.pin(key)

    def _unpin_all_but(self, keys: Collection[str]) -> None:
        for key in self._pinned.difference(keys):
            self._pinned.remove(key)
            self._cache.unpin(key)

    def _number_of(self, key: str) -> int:
        """The version number of contents without a number: new contents get the next number, and keep it."""
        file = self._base_path / NUMBERS
        try:
            numbers: dict[str, int] = json.loads(file.read_text())
        except (OSError, ValueError):
            numbers = {}
        if key not in numbers:
            numbers[key] = max(numbers.values(), default=0) + 1
            write_whole(file, json.dumps(numbers).encode())
        return numbers[key]

    def forget(self) -> None:
        """Removes all versions from the base path, for a model that is no longer served."""
        self._unpin_all_but(())
        shutil.rmtree(self._base_path, ignore_errors=True)
