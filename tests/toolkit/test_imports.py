"""The toolkit adds no cost to a server, and imports no framework before it is needed."""

import json
import subprocess
import sys

import pytest

FRAMEWORKS = ("torch", "tensorflow", "sklearn", "keras", "onnx", "onnxruntime", "matplotlib", "rich", "skl2onnx")

HELP = """
import contextlib, io
from headrace_server.commands.headrace import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["--help"])
"""


@pytest.mark.parametrize("code", ["import headrace_toolkit", HELP], ids=["import", "help"])
def test_no_framework_is_imported(code: str) -> None:
    ask = f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert not set(FRAMEWORKS) & set(json.loads(answer.stdout))


def test_a_server_does_not_import_the_toolkit() -> None:
    ask = "import sys, headrace_server.server; print(any(name.startswith('headrace_toolkit') for name in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_the_names_of_the_package() -> None:
    import headrace_toolkit

    for name in headrace_toolkit.__all__:
        assert getattr(headrace_toolkit, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        headrace_toolkit.nothing  # noqa: B018
