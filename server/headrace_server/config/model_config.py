"""A model to serve: its name, where its versions are, and which of them to serve."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Latest:
    """Serve the highest versions: `count` of them."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class All:
    """Serve every version."""


@dataclass(frozen=True, slots=True)
class Specific:
    """Serve these versions, if they exist."""

    versions: tuple[int, ...]


VersionPolicy = Latest | All | Specific


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model's name, where its versions are, and which of them to serve.

    Attributes:
        name: The model's name.
        base_path: The folder on this machine that holds its versions.
        policy: Which of the versions to serve.
        uri: The store that the versions are fetched from; empty if there is none.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = Latest()
    uri: str = ""

    @property
    def where(self) -> str:
        """Where the versions come from, for messages."""
        return self.uri or str(self.base_path)
