"""A temporary folder that is gone when nobody refers to it any more, or the process ends."""

import shutil
import tempfile
import weakref
from pathlib import Path


class WorkFolder:
    """Where the files of one run lie. Whoever needs one of them keeps this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="headrace-"))
        self._count = 0
        # Not a TemporaryDirectory, which warns of everyone who leaves the clearing up to it.
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def new(self) -> Path:
        """An empty folder inside."""
        self._count += 1
        folder = self.path / str(self._count)
        folder.mkdir()
        return folder
