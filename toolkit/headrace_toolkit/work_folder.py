"""A temporary folder that is removed once no object refers to it, or at the end of the process."""

import shutil
import tempfile
import weakref
from pathlib import Path


class WorkFolder:
    """The folder for the files of one run; keep a reference to it to keep a file."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="headrace-"))
        self._count = 0
        # Not a TemporaryDirectory, which warns if the caller does not remove it explicitly.
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def new(self) -> Path:
        """A new, empty folder inside."""
        self._count += 1
        folder = self.path / str(self._count)
        folder.mkdir()
        return folder
