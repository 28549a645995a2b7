"""The commands on the pages for users of other servers work."""

import re
from pathlib import Path

import numpy as np

from tests.conftest import ROOT, Run
from tests.support.calls import MODEL, floats

PAGE = ROOT / "docs" / "coming-from-torchserve.md"


def test_a_handler_of_torchserve(running: Run, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    version = tmp_path / MODEL / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(code)
    np.save(version / "tones.npy", floats([0, 1, 0, -1, 0, 1, 0, -1], [0, 0.5, 1, 0.5, 0, -0.5, -1, -0.5]))
    server = running(model_base_path=str(version.parent))
    answer = server.caller.predict({"samples": floats([0, 2, 4, 2, 0, -2, -4, -2], [0, 3, 0, -3, 0, 3, 0, -3])})
    assert answer["tone"].tolist() == [1, 0]
    assert answer["distance"].tolist() == [0, 0]
