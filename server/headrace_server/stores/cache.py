"""Fetched files on disk: complete ones by their content, and parts of others that can be resumed.

contents/KEY/            the files of one fetch, complete; KEY is a hash of their names, sizes and tags
contents/KEY.json        their sizes; next to the folder, so that a signature of the folder stays valid
partial/KEY/             the files of a fetch that is not complete
models/NAME/VERSION      a link to the folder of a version in contents/
models/NAME/numbers.json the version numbers of contents that have none of their own
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from headrace_server.stores.base import RemoteFile, StoreError


def key_of(uri: str, files: Sequence[RemoteFile]) -> str:
    """The key of a fetch, which differs for different files."""
    listed = sorted((file.path, file.size, file.tag) for file in files)
    return hashlib.sha256(json.dumps([uri, listed]).encode()).hexdigest()[:32]


class Cache:
    """A folder for fetched files. Used by several threads, each for models of its own.

    Args:
        root: The folder, which is created if missing.
        most_bytes: The limit on all contents together; 0 means no limit except the disk's.
    """

    def __init__(self, root: Path, most_bytes: int = 0) -> None:
        self.root = root
        self._most = most_bytes
        self._lock = Lock()
        self._pins: Counter[str] = Counter()

    def start(self) -> None:
        """Creates the folders.

        Raises:
            OSError: The folders cannot be created.
        """
        for name in ("contents", "partial", "models"):
            (self.root / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def model(self, name: str, uri: str) -> Path:
        """The base path of a model at a URI."""
        plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[:80]
        return self.root / "models" / f"{plain}-{hashlib.sha256(f'{name} {uri}'.encode()).hexdigest()[:12]}"

    def content(self, key: str) -> Path | None:
        """The folder of a complete fetch; None if it is not complete."""
        folder = self.root / "contents" / key
        try:
            sizes = json.loads(_manifest(folder).read_text())
            whole = all((folder / path).stat().st_size == size for path, size in sizes.items())
        except (OSError, ValueError, AttributeError):
            return None
        if not whole:
            _remove(folder)
            return None
        os.utime(_manifest(folder))
        return folder

    @contextmanager
    def partial(self, key: str) -> Iterator[Path | None]:
        """Locks the folder of an incomplete fetch, for a `with` block; gives None if another process is fetching."""
        folder = self.root / "partial" / key
        folder.mkdir(parents=True, exist_ok=True)
        with (self.root / "partial" / f"{key}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield folder

    def complete(self, key: str, folder: Path) -> Path:
        """Marks a fetch as complete, and returns its folder."""
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        target = self.root / "contents" / key
        _remove(target)
        folder.rename(target)
        write_whole(_manifest(target), json.dumps(sizes).encode())
        (self.root / "partial" / f"{key}.lock").unlink(missing_ok=True)
        return target

    def drop_partial(self, key: str) -> None:
        """Deletes the files of an incomplete fetch."""
        shutil.rmtree(self.root / "partial" / key, ignore_errors=True)

    def pin(self, key: str) -> None:
        """Protects a fetch, complete or not, from being removed until `unpin` has been called as often as `pin`."""
        with self._lock:
            self._pins[key] += 1

    def unpin(self, key: str) -> None:
        """Undoes one `pin` of a fetch."""
        with self._lock:
            self._pins -= Counter((key,))

    def make_room(self, uri: str, size: int) -> int:
        """Removes contents that are not pinned until a fetch fits; returns the number of bytes that may then be used.

        Raises:
            StoreError: The fetch does not fit.
        """
        for _, folder in sorted((age, folder) for folder, age, _ in self._contents()):
            if self._room() >= size:
                break
            with self._lock:
                if folder.name not in self._pins:
                    _remove(folder)
        room = self._room()
        if room < size:
            left = f"--model_store_cache_mb leaves {max(0, room) >> 20}" if self._most else f"its disk has {room >> 20}"
            raise StoreError(f"{uri} takes {-(-size >> 20)} MB, and {left} MB for {self.root}")
        return room

    def _room(self) -> int:
        free = shutil.disk_usage(self.root).free
        if not self._most:
            return free
        return min(free, self._most - sum(taken for _, _, taken in self._contents()))

    def _contents(self) -> Iterator[tuple[Path, float, int]]:
        for manifest in (self.root / "contents").glob("*.json"):
            try:
                sizes = json.loads(manifest.read_text())
                yield manifest.with_suffix(""), manifest.stat().st_mtime, sum(sizes.values())
            except (OSError, ValueError, AttributeError):
                continue


def write_whole(file: Path, content: bytes) -> None:
    """Writes a file in one step, so that readers never see a part of it."""
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.rename(file)


def _manifest(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _remove(folder: Path) -> None:
    _manifest(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
