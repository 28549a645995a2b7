"""Loads models, named `FOLDER` or `FOLDER:TAGS`, in TensorFlow; prints each one's answer for x = [2], or its error."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from headrace_server.backends import auto
from headrace_server.backends.base import BackendOptions
from headrace_server.errors import LoadError


def outcome(folder: Path, tags: str) -> Any:
    """The output `y` as a list, or the code and the text of the error."""
    options = BackendOptions(saved_model_tags=tuple(tags.split(",")), prefer_tflite_model=True)
    try:
        backend = auto.load(folder, options)
    except LoadError as error:
        return [error.code, error.message]
    y = backend.run("serving_default", {"x": np.array([2.0], np.float32)}, ["y"])["y"]
    backend.close()
    return y.tolist()


if __name__ == "__main__":
    named = [argument.partition(":") for argument in sys.argv[1:]]
    print(json.dumps([outcome(Path(folder), tags or "serve") for folder, _, tags in named]))
