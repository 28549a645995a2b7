"""`headrace completion`: the completions that bash itself offers for partial command lines."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.running import COMMAND

BASH = shutil.which("bash")

OFFER = """
source "$1"
COMP_WORDS=(headrace "${@:2}")
COMP_CWORD=$(($# - 1))
$(complete -p headrace | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script that is sourced."""
    file = tmp_path_factory.mktemp("completion") / "headrace"
    file.write_text(subprocess.run([COMMAND, "completion", "bash"], capture_output=True, text=True, check=True).stdout)
    return file


@pytest.mark.skipif(BASH is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ser"], ["serve"]),
        (["c"], ["call", "completion", "convert"]),
        (["serve", "--rest_api_p"], ["--rest_api_port"]),
        (["completion", "z"], ["zsh"]),
    ],
    ids=" ".join,
)
def test_completions_of_bash(script: Path, words: list[str], offered: list[str]) -> None:
    assert BASH is not None
    run = subprocess.run([BASH, "-c", OFFER, "bash", script, *words], capture_output=True, text=True, check=True)
    assert sorted(run.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_a_script_too(shell: str) -> None:
    run = subprocess.run([COMMAND, "completion", shell], capture_output=True, text=True, check=True)
    assert "rest_api_port" in run.stdout


def test_an_unknown_shell_is_named() -> None:
    run = subprocess.run([COMMAND, "completion", "fish"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "invalid choice: 'fish'" in run.stderr
