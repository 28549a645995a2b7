"""Loads signed or sealed versions from verified and unsealed files in memory."""

from pathlib import Path

from headrace_protos import Code
from headrace_server.config.model_toml import MODEL_FILE, read_model_options
from headrace_server.errors import LoadError, ServingError
from headrace_server.models.ensemble import Unready
from headrace_server.models.loader import LoadVersion
from headrace_server.models.rights import CodeTrust
from headrace_server.models.servable import Servable
from headrace_server.security.models.opening import Opened, Opener


def opened_before(load: LoadVersion, opener: Opener, code: CodeTrust) -> LoadVersion:
    """Like `load`, but loads what an opener returns for each version.

    Args:
        load: Loads and warms up a version.
        opener: Verifies and unseals a version.
        code: Decides which versions may hold code; a version that was opened may hold code if the original may.
    """

    def load_opened(name: str, version: int, path: Path) -> Servable:
        opened = opener.open(path)
        if opened.path == path:
            return load(name, version, path)
        try:
            _check_libraries(opened)
            with code.standing_for(opened.path, opened.original):
                servable = load(name, version, opened.path)
        except Unready:
            opened.close()
            raise
        except ServingError as error:
            opened.close()
            raise LoadError(error.code, opened.as_original(error.message)) from error
        except BaseException:
            opened.close()
            raise
        servable.when_closed(opened.close)
        return servable

    return load_opened


def _check_libraries(opened: Opened) -> None:
    """Refuses a signed version whose options name libraries of custom operators, which no signature covers.

    Raises:
        LoadError: FAILED_PRECONDITION if the version is one of these.
    """
    if opened.signed and read_model_options(opened.path.parent).onnxruntime.get("custom_op_libraries"):
        file = opened.original.parent / MODEL_FILE
        text = f"{file} names custom_op_libraries, which are code without a signature, but signatures are required"
        raise LoadError(Code.FAILED_PRECONDITION, text)
