"""Opens a version before it is loaded: verifies and unseals it, and passes on files that nobody can change."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from headrace_protos import Code
from headrace_server.errors import LoadError, ServingError, unreadable
from headrace_server.security.models.archive import BadSeal
from headrace_server.security.models.bundle import (
    MAX_BUNDLE_BYTES,
    WHOLE_FILE,
    BadSignature,
    Manifest,
    read_bundle,
)
from headrace_server.security.models.model_keys import KeySource
from headrace_server.security.models.names import SEALED_FILE, SIGNATURE_FILE
from headrace_server.security.models.private_files import MemoryFile, PrivateFolder, close_all, copy_of
from headrace_server.security.models.roots import Trust
from headrace_server.security.models.sealed import open_sealed
from headrace_server.security.models.trust import Signers


def signature_path(version: Path) -> Path:
    """The path of a version's signature."""
    return version.with_name(f"{version.name}.sig") if version.is_file() else version / SIGNATURE_FILE


@dataclass(frozen=True, slots=True)
class Opened:
    """A version that may be loaded.

    Attributes:
        original: The path where the version was found.
        path: The path to load the version from; the original if nothing had to be verified or unsealed.
        signed: Whether a required signature covers the version.
        close: Frees the version's resources after it is unloaded.
    """

    original: Path
    path: Path
    signed: bool = False
    close: Callable[[], None] = field(default=lambda: None)

    def as_original(self, text: str) -> str:
        """The text, with the path that the version was loaded from replaced by the path where it was found."""
        if self.path == self.original:
            return text
        text = text.replace(str(self.path), str(self.original))
        return text.replace(str(self.path.parent), str(self.original.parent))


class Opener:
    """Opens versions. Any thread.

    Args:
        trust: Which signatures are trusted for which folders.
        keys: The source of model keys.
        beside: Names of files next to versions that belong to the same model.
    """

    def __init__(self, trust: Trust, keys: KeySource, beside: tuple[str, ...] = ()) -> None:
        self._trust = trust
        self._keys = keys
        self._beside = beside

    def open(self, version: Path) -> Opened:
        """Verifies and unseals a version.

        Args:
            version: The version's folder or file.

        Raises:
            LoadError: FAILED_PRECONDITION if it must not be loaded; the text names the file.
            ServingError: The version cannot be read.
        """
        roots, signature = self._trust.of(version), signature_path(version)
        is_required = any(root.required for root in roots)
        signers = [root.signers for root in roots if root.signers is not None] if signature.exists() else []
        if is_required and not signers:
            raise _refused(version, f"it is not signed: there is no {signature.name}, and signatures are required")
        is_sealed = (version / SEALED_FILE).exists()
        if not signers and not is_sealed:
            return Opened(version, version)
        with PrivateFolder(version.parent.name, version.name, is_sealed=is_sealed) as folder, _named(version):
            files = _copies(version, self._names(version, signers))
            folder.add(self._unsealed(files) if is_sealed else files)
            for name in self._beside:
                folder.copy_beside(version.parent / name)
            return Opened(version, folder.version, is_required, folder.close)

    def _names(self, version: Path, signers: Sequence[Signers]) -> Mapping[str, bytes | None]:
        """The names of the files to copy, with the digests that they must have; None means any digest."""
        if not signers:
            return {SEALED_FILE: None}
        path = signature_path(version)
        try:
            bundle = read_bundle(_small(path))
            manifest, *others = (each.verify(bundle) for each in signers)
            if any(other != manifest for other in others):
                raise BadSignature("it names different files to different signers")
        except BadSignature as error:
            raise _refused(path, str(error)) from error
        _check_whole(version, manifest)
        return manifest.digests

    def _unsealed(self, files: Mapping[str, MemoryFile]) -> dict[str, MemoryFile]:
        """Replaces a sealed file by the files inside it; there must be no other files."""
        others = [name for name in files if name != SEALED_FILE]
        try:
            if others:
                raise BadSeal(f"{others[0]} is next to it unencrypted")
            with os.fdopen(os.dup(files[SEALED_FILE].descriptor), "rb") as file:
                file.seek(0)
                return open_sealed(file, self._keys.keys)
        except BadSeal as error:
            raise BadSeal(f"{SEALED_FILE}: {error}") from error
        finally:
            close_all(files.values())


def _copies(version: Path, names: Mapping[str, bytes | None]) -> dict[str, MemoryFile]:
    """Copies files, and checks each against its digest."""
    copies: dict[str, MemoryFile] = {}
    try:
        for name, digest in names.items():
            copies[name] = copy = copy_of(version / name if name != WHOLE_FILE else version)
            if digest is not None and copy.digest != digest:
                raise BadSignature(f"{name if name != WHOLE_FILE else version.name} is not the file that was signed")
    except BaseException:
        close_all(copies.values())
        raise
    return copies


def _check_whole(version: Path, manifest: Manifest) -> None:
    """Refuses a version that has an unsigned file, or lacks a signed one.

    Raises:
        BadSignature: A file was not signed, or a signed one is missing.
    """
    there = {WHOLE_FILE} if version.is_file() else set(files_of(version))
    expected = set(manifest.digests)
    if missing := sorted(expected - there):
        raise BadSignature(f"{missing[0]} was signed but is missing")
    ignored = manifest.ignored | {SIGNATURE_FILE}
    for name in sorted(there - expected):
        if name not in ignored and name.partition("/")[0] not in ignored:
            raise BadSignature(f"{name} has not been signed")


def files_of(version: Path) -> Iterator[str]:
    """The names of a version's files, following links."""
    for folder, folders, files in os.walk(version, followlinks=True):
        del folders
        for name in files:
            yield (Path(folder) / name).relative_to(version).as_posix()


def _small(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BUNDLE_BYTES:
            raise BadSignature(f"it is larger than {MAX_BUNDLE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


@contextmanager
def _named(version: Path) -> Iterator[None]:
    """Turns a problem of a version into an error that names the version."""
    try:
        yield
    except (BadSignature, BadSeal) as error:
        raise _refused(version, str(error)) from error
    except LoadError:
        raise
    except ServingError as error:
        raise LoadError(error.code, f"{version}: {error.message}") from error


def _refused(path: Path, why: str) -> LoadError:
    return LoadError(Code.FAILED_PRECONDITION, f"{path} is not loaded: {why}")
