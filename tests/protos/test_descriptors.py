"""Our messages equal those of TensorFlow and TF Serving, field by field."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from headrace_protos import Code, DataType

# Messages that no published package contains: their numbers come from TF Serving's sources.
UNPUBLISHED = {
    "tensorflow.serving.BatchingParameters",
    "tensorflow.serving.ModelWarmupOptions",
    "tensorflow.serving.MonitoringConfig",
    "tensorflow.serving.PrometheusConfig",
    "tensorflow.serving.SSLConfig",
    "tensorflow.serving.SavedModelBundleSourceAdapterConfig",
    "tensorflow.serving.SessionBundleConfig",
}

# Messages that declare only the few fields that headrace reads.
IN_PART = {"tensorflow.ConfigProto"}

# Fields left out on purpose; their data stays in the message as unknown fields.
LEFT_OUT = {
    "tensorflow.TypeSpecProto": {"type_state"},
    "tensorflow.serving.SessionRunLog": {"request", "response"},
    "tensorflow.serving.PredictRequest.RequestOptions": {"handshake"},
}

Described = dict[str, dict[str, Any] | None]


@pytest.fixture(scope="module")
def described(tensorflow_python: Path) -> dict[str, Described]:
    script = Path(__file__).with_name("describe.py")
    run = subprocess.run([tensorflow_python, script], capture_output=True, check=True, timeout=120)
    both: dict[str, Described] = json.loads(run.stdout)
    return both


def test_every_name_exists_in_the_published_packages(described: dict[str, Described]) -> None:
    assert len(described["ours"]) > 90
    assert {name for name in described["ours"] if described["theirs"][name] is None} == UNPUBLISHED


def test_every_field_value_and_method_is_identical(described: dict[str, Described]) -> None:
    for name, ours in described["ours"].items():
        theirs = described["theirs"][name]
        if theirs is not None:
            if name in IN_PART:
                theirs = {key: theirs[key] for key in ours or ()}
            assert ours == {key: value for key, value in theirs.items() if key not in LEFT_OUT.get(name, ())}, name


@pytest.mark.parametrize("enum", [DataType, Code])
def test_a_value_of_an_enum_is_an_attribute_which_is_quick_to_read(enum: Any) -> None:
    assert {name: vars(enum)[name] for name in enum.keys()} == dict(enum.items())  # noqa: SIM118


def test_fields_left_out_exist(described: dict[str, Described]) -> None:
    for name, fields in LEFT_OUT.items():
        assert fields <= (described["theirs"][name] or {}).keys()
