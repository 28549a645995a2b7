"""The rights of callers of HandleReloadConfigRequest: to name models, run their code, and log calls."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from headrace_protos import Code, ModelConfig, ModelServerConfig
from headrace_server.backends.auto import PYTHON_FILE
from headrace_server.config.model_toml import MODEL_FILE
from headrace_server.config.paths import as_path
from headrace_server.config.run import Config
from headrace_server.errors import LoadError, ServingError, unreadable
from headrace_server.stores.uris import is_remote


@dataclass(frozen=True, slots=True)
class ReloadRights:
    """The rights of a caller to configure models. A caller may always repeat the operator's configuration.

    Attributes:
        allowed: Whether callers may replace the configuration at all.
        anything: Whether, without `log_roots`, the log of a model's calls may be written to any folder.
        model_roots: Folders in which base paths must lie; empty means any folder.
        uri_roots: URIs below which base paths in stores must lie.
        log_roots: Folders in which the log of a model's calls must lie; if empty, `anything` decides.
    """

    allowed: bool = True
    anything: bool = True
    model_roots: tuple[Path, ...] = ()
    uri_roots: tuple[str, ...] = ()
    log_roots: tuple[Path, ...] = ()

    @classmethod
    def of(cls, config: Config) -> "ReloadRights":
        """The rights that the flags give."""
        return cls(
            allowed=config.allow_reload != "false",
            anything=config.allow_reload == "true",
            model_roots=tuple(as_path(root) for root in config.model_roots if not is_remote(root)),
            uri_roots=tuple(filter(is_remote, config.model_roots)),
            log_roots=tuple(map(as_path, config.request_log_roots)),
        )

    def check(self, wanted: ModelServerConfig, operators: ModelServerConfig) -> None:
        """Compares the configuration that a caller sends with the operator's.

        Raises:
            ServingError: PERMISSION_DENIED, with the flag that would allow it.
        """
        if not self.allowed:
            raise _denied("HandleReloadConfigRequest is not allowed (--allow_reload=false)")
        known = {model.name: model for model in operators.model_config_list.config}
        for model in wanted.model_config_list.config:
            self._check_model(model, known.get(model.name, ModelConfig()))

    def _check_model(self, model: ModelConfig, known: ModelConfig) -> None:
        if model.base_path != known.base_path:
            self._check_base_path(model)
        prefix = model.logging_config.log_collector_config.filename_prefix
        if not prefix or model.logging_config == known.logging_config:
            return
        unbound = self.anything and not self.log_roots
        if not unbound and not _is_in(as_path(prefix).parent, self.log_roots):
            raise _denied(f"Model {model.name}: filename_prefix {prefix} is not in any of --request_log_roots")

    def _check_base_path(self, model: ModelConfig) -> None:
        """Refuses a base path outside the roots; without roots, any folder is allowed.

        URIs must always be below a root, since the server could reach anything through them.
        """
        if is_remote(model.base_path):
            if not any(_is_below(model.base_path, root) for root in self.uri_roots):
                raise _denied(f"Model {model.name}: {model.base_path} is not below any URI in --model_roots")
        elif self.model_roots and not _is_in(as_path(model.base_path.removeprefix("file://")), self.model_roots):
            raise _denied(f"Model {model.name}: base path {model.base_path} is not in any of --model_roots")


def _is_below(uri: str, root: str) -> bool:
    """Whether a URI is a root or lies below it; dot segments cannot escape it."""
    return ".." not in uri and (uri == root or uri.startswith(root.rstrip("/") + "/"))


class CodeTrust:
    """Decides which versions may hold a `model.py`: those that the operator has named, or any. Any thread.

    Args:
        everywhere: Whether any version may hold one.
        roots: Folders in which any version may hold one.
    """

    def __init__(self, *, everywhere: bool = True, roots: Iterable[Path] = ()) -> None:
        self._everywhere = everywhere
        self._roots = tuple(roots)
        self._lock = Lock()
        self._named: set[Path] = set()
        self._originals: dict[Path, Path] = {}

    @classmethod
    def of(cls, config: Config) -> "CodeTrust":
        """The rules that the flags give."""
        return cls(everywhere=config.allow_reload == "true", roots=map(as_path, config.code_roots))

    def trust(self, base_paths: Iterable[Path]) -> None:
        """Records that the operator has named these base paths."""
        with self._lock:
            self._named.update(base_paths)

    def check(self, version: Path, *, libraries: bool = False) -> None:
        """Refuses a version that holds code if its code is not trusted.

        Args:
            version: The folder `<base path>/<version>`.
            libraries: Whether the model's own options name libraries of operators, which are also code.

        Raises:
            LoadError: PERMISSION_DENIED if the version's code is not trusted.
            ServingError: PERMISSION_DENIED if the version's folder cannot be read.
        """
        try:
            holds_code = libraries or _exists(os.path.join(version, PYTHON_FILE))
        except PermissionError as error:
            raise unreadable(version, error) from error
        if holds_code:
            with self._lock:
                original = self._originals.get(version, version)
            code = original.parent / MODEL_FILE if libraries else original / PYTHON_FILE
            self._check(original, code, libraries=libraries)

    @contextmanager
    def standing_for(self, version: Path, original: Path) -> Iterator[None]:
        """For the length of a `with` block, trusts a copy of a version as much as the original."""
        with self._lock:
            self._originals[version] = original
        try:
            yield
        finally:
            with self._lock:
                del self._originals[version]

    def _check(self, version: Path, code: Path, *, libraries: bool) -> None:
        if self._everywhere:
            return
        with self._lock:
            named = version.parent in self._named
        if not named and not _is_in(version, self._roots):
            what = "names libraries of code" if libraries else "is code"
            text = f"{code} {what}, and a caller has named its folder, which is not in any of --code_roots"
            raise LoadError(Code.PERMISSION_DENIED, text)


def _exists(path: str) -> bool:
    """Like `os.path.exists`, but a path that cannot be accessed is an error."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return Path(path).exists()  # false for a circle of links, among others
    return True


def _is_in(path: Path, roots: Iterable[Path]) -> bool:
    """Whether a path lies in one of some folders after links are resolved."""
    real = path.resolve()
    return any(real.is_relative_to(root.resolve()) for root in roots)


def _denied(text: str) -> ServingError:
    return ServingError(Code.PERMISSION_DENIED, text)
