"""Which signers are trusted for the models in which folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_batching.option import option
from headrace_server.config.paths import as_path
from headrace_server.errors import invalid
from headrace_server.security.models.keyless import Keyless, KeylessOptions
from headrace_server.security.models.trust import Signers
from headrace_server.security.tables import are_tables, read_table, read_toml


@dataclass(frozen=True, slots=True)
class Root:
    """The rules for the models in a folder.

    Attributes:
        path: The folder that contains the models.
        required: Whether the models' versions must be signed.
        signers: The trusted signers; None means that signatures are not checked.
    """

    path: Path
    required: bool
    signers: Signers | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RootOptions:
    """Keys of a `[[roots]]` table."""

    path: str = option("", "the folder", fits=bool, words="the name of a folder")
    keys: tuple[str, ...] = option((), "PEM files of public keys, or of authorities' certificates")
    identities: tuple[str, ...] = option((), "identities whose keyless signatures are trusted")
    issuer: str = option("", "URL of the OpenID provider that confirms the identities")
    trust_root: str = option("", "JSON file with Sigstore's trusted root")
    required: bool = option(True, "whether the models in the folder must be signed")


class Trust:
    """The rules for the models of each folder: those of the innermost root that contains it, after following links.

    Args:
        everywhere: The rules outside all roots.
        roots: The rules for the models in each root, in any order.
    """

    def __init__(self, everywhere: Root, roots: Sequence[Root]) -> None:
        self._everywhere = everywhere
        self._roots = sorted(roots, key=lambda root: len(root.path.parts), reverse=True)

    def of(self, version: Path) -> list[Root]:
        """The rules for a version, all of which it must satisfy, so that no link leads out of a root.

        Three kinds of places have rules: the version's target if the version is a link, the version's own place, and
        the places of links to folders above it. The rules outside all roots apply only if the target or the version's
        own place is in no root.
        """
        absolute = version.absolute()
        above = [folder.resolve() / absolute.relative_to(folder) for folder in absolute.parents]
        found = [self._innermost(place) for place in (absolute.resolve(), *above)]
        rules = [root or self._everywhere for root in found[:2]] + [root for root in found[2:] if root is not None]
        return list(dict.fromkeys(rules))

    def _innermost(self, place: Path) -> Root | None:
        return next((root for root in self._roots if place.is_relative_to(root.path)), None)


def read_roots(path: Path) -> list[Root]:
    """Reads the roots in a TOML file.

    Raises:
        ServingError: The file cannot be read, or is invalid; the text names the key.
    """
    document = read_toml(path)
    if set(document) != {"roots"} or not are_tables(document["roots"]):
        raise invalid(f"{path} must contain only [[roots]] tables")
    return [_root(path, number, table) for number, table in enumerate(document["roots"], start=1)]


def _root(file: Path, number: int, table: dict[str, Any]) -> Root:
    where = f"{file}: root {number}: "
    read = read_table(RootOptions, where, table)
    if not read.path:
        raise invalid(f"{where}path must be the name of a folder; it is missing")
    keyless = KeylessOptions(read.identities, read.issuer, read.trust_root)
    keyless.check(where)
    signers = make_signers(read.keys, keyless)
    if read.required and signers is None:
        raise invalid(f"{where}keys or identities must say whose signatures are trusted, since required is true")
    return Root(as_path(read.path).resolve(), read.required, signers)


def make_signers(keys: Sequence[str], keyless: KeylessOptions) -> Signers | None:
    """The signers that options name; None if they name none.

    Args:
        keys: Paths of PEM files.
        keyless: The options of keyless signing, already checked.

    Raises:
        ServingError: A file cannot be read or used, or a package is missing.
    """
    if not keys and not keyless.identities:
        return None
    return Signers([as_path(each) for each in keys], Keyless(keyless) if keyless.identities else None)
