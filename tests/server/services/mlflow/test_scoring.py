"""MLflow's scoring protocol: answers are byte for byte those of `mlflow models serve`, which were recorded here."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from headrace_server.config.mlflow import MlflowOptions
from tests.conftest import Rest
from tests.server.services.mlflow.cases import CASES, REFUSED, Case, ask
from tests.support import models
from tests.support.calls import MODEL
from tests.support.programs import mlflow_python, started

RECORD = Path(__file__).with_name("recorded.json")
"""Answers of MLflow 3.17.2, recorded by `test_mlflow_itself` with HEADRACE_RECORD set."""

Ports = Mapping[str, int]


@pytest.fixture(scope="module")
def ports(resting: Rest) -> Ports:
    """A server for each model."""
    one = resting(models.linear, mlflow=MlflowOptions(model=MODEL)).port
    two = resting(models.two_inputs, mlflow=MlflowOptions(model=MODEL)).port
    return {"one": one, "bare": one, "two": two}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(RECORD.read_text())
    return record


@pytest.fixture(scope="module")
def mlflow_ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """MLflow's own server for each model."""
    root = tmp_path_factory.mktemp("mlflow")
    command = [str(mlflow_python()), str(Path(__file__).with_name("reference.py")), str(root)]
    models.linear(root / "1").rename(root / "one.onnx")
    models.two_inputs(root / "2").rename(root / "two.onnx")
    subprocess.run(command, check=True, timeout=300)
    with ExitStack() as stack:
        yield {name: stack.enter_context(started([*command, name], r"^(\d+)$")) for name in ("one", "two", "bare")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_answers_are_byte_for_byte_mlflows(ports: Ports, recorded: dict[str, Any], case: Case) -> None:
    assert list(ask(ports[case.model], case)) == recorded[case.name]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_refusal_has_mlflows_status_and_error(ports: Ports, recorded: dict[str, Any], case: Case) -> None:
    status, kind, text = ask(ports[case.model], case)
    assert [status, kind] == recorded[case.name][:2]
    if status == 415:
        assert _shortened(text) == _shortened(recorded[case.name][2].replace(", 'application/vnd.apache.parquet'", ""))
        return
    ours, theirs = json.loads(text), json.loads(recorded[case.name][2])
    assert ours["error_code"] == theirs["error_code"]
    if ours["error_code"] == "BAD_REQUEST":
        assert _in_order(ours["message"]) == _in_order(_shortened(theirs["message"]))
    elif "Model is missing" in theirs["message"]:
        assert theirs["message"].endswith(ours["message"])
    else:
        assert "x" in ours["message"]  # the input


def test_mlflow_itself(mlflow_ports: Ports) -> None:
    answers = {case.name: [*ask(mlflow_ports[case.model], case)] for case in (*CASES, *REFUSED)}
    if os.environ.get("HEADRACE_RECORD"):
        RECORD.write_text(json.dumps(_without_traces(answers), indent=1) + "\n")
    known = json.loads(RECORD.read_text())
    for case in CASES:
        assert answers[case.name] == known[case.name], case.name
    for case in REFUSED:
        assert answers[case.name][0] == known[case.name][0], case.name


def _without_traces(answers: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Removes tracebacks, which name paths of the recording machine."""
    for answer in answers.values():
        if '"stack_trace"' in answer[2]:
            document = json.loads(answer[2])
            del document["stack_trace"]
            answer[2] = json.dumps(document)
    return answers


def _shortened(text: str) -> str:
    """An MLflow error without the parts that headrace omits: the sent body, and a note about versions."""
    text = re.sub(r"\.? IMPORTANT: .*|\nInput: .*|Error tokenizing data. C error: |\n(?=')", "", text, flags=re.DOTALL)
    return text.removesuffix(".")


def _in_order(text: str) -> str:
    """The text with the names in braces sorted: they come from a set, in any order."""
    text = re.sub(r"\{([^}]*)\}", lambda found: "{" + ", ".join(sorted(found[1].split(", "))) + "}", text)
    return re.sub(r"\(\\?[\"'](.*)\\?[\"']\)", r"(\1)", text).strip().removesuffix(".")
