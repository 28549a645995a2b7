"""The keys that open sealed models, from a file, the environment, or a command."""

import base64
import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace_server.errors import invalid, unreadable
from headrace_server.security.models.names import MODEL_KEYS_VARIABLE

KEY_BYTES = 32
ID_BYTES = 8
COMMAND_SECONDS = 60.0

IDENTITY_PREFIX = "AGE-SECRET-KEY-1"
"""The beginning of a line that is an age identity, the secret half of a recipient."""


@dataclass(frozen=True, slots=True)
class ModelKeys:
    """Model keys of both kinds: headrace's own, and age identities.

    Attributes:
        by_id: Keys of 32 bytes by their ID, in the order in which they were named.
        identities: age identities, each as text, with the place where it was found, for error messages.
    """

    by_id: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    identities: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class KeySource:
    """The source of model keys. It is read at each load, since keys may be added.

    Attributes:
        file: A file of keys.
        command: A command that prints them, such as one that asks a KMS; run by the shell.
        variable: The value of the environment variable.
    """

    file: str = ""
    command: str = ""
    variable: str = field(default="", repr=False)

    def keys(self) -> ModelKeys:
        """Reads the keys: one per line, in base64 or as an age identity; lines that begin with # are comments.

        Raises:
            ServingError: The keys cannot be read, or are invalid.
        """
        by_id: dict[bytes, bytes] = {}
        identities: list[tuple[str, str]] = []
        for where, line in self._lines():
            if line.upper().startswith(IDENTITY_PREFIX):
                identities.append((line, where))
            else:
                key = _key(where, line)
                by_id[key_id(key)] = key
        return ModelKeys(by_id, tuple(identities))

    def _lines(self) -> Iterator[tuple[str, str]]:
        for name, text in self._texts():
            for number, line in enumerate(text.splitlines(), start=1):
                if (line := line.strip()) and not line.startswith("#"):
                    yield f"{name}: line {number}", line

    def _texts(self) -> Iterator[tuple[str, str]]:
        if self.file:
            try:
                yield self.file, Path(self.file).read_text()
            except OSError as error:
                raise unreadable(self.file, error) from error
            except UnicodeDecodeError:
                raise invalid(f"{self.file} must be text: a key in base64, or an age identity, in each line") from None
        if self.variable:
            yield MODEL_KEYS_VARIABLE, self.variable
        if self.command:
            yield "--model_keys_command", _run(self.command)


def _run(command: str) -> str:
    try:
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        raise invalid(f"--model_keys_command failed: {type(error).__name__}") from error
    if done.returncode != 0:
        raise invalid(f"--model_keys_command ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _key(where: str, line: str) -> bytes:
    try:
        key = base64.b64decode(line, validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise invalid(f"{where} must be {KEY_BYTES} bytes in base64, or an age identity ({IDENTITY_PREFIX}...)")
    return key


def key_id(key: bytes) -> bytes:
    """The ID of a key of 32 bytes."""
    return hashlib.sha256(b"headrace model key" + key).digest()[:ID_BYTES]
