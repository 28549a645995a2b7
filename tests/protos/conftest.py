"""A Python that has TensorFlow, for the tests that compare with it."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tensorflow_python() -> Path:
    """The Python of an environment with tensorflow-cpu, tensorflow-serving-api and headrace."""
    path = os.environ.get("HEADRACE_TENSORFLOW_PYTHON")
    if path is None:
        pytest.skip("HEADRACE_TENSORFLOW_PYTHON names no Python with TensorFlow")
    return Path(path)
