"""`headrace profile`: makes a profile of a model's inputs from a log of requests."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from headrace_batching.task import Array, Arrays
from headrace_protos import PredictionLog
from headrace_protos.tensor import TensorError
from headrace_server.models.recorded import inputs_of
from headrace_server.models.tfrecord import CorruptRecordError, read_records
from headrace_server.monitoring.profiles import PROFILE_FILE

MOST_REQUESTS = 10_000
"""The maximum number of requests that a profile is made from; later ones are not read."""


class ProfileError(Exception):
    """No profile can be made; the text says why."""


def add_command(commands: Any) -> None:
    """Adds the command to those of `headrace`.

    Args:
        commands: The object that `ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "profile",
        help="make a profile of a model's inputs from a log of requests",
        usage="headrace profile LOG... --output=FOLDER [--model=NAME]",
        description=f"Make {PROFILE_FILE} in a version's folder from logged Predicts (TFRecords of PredictionLog). "
        "The server then compares the rows of later requests with it: see 'Drift' in docs/monitoring.md.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.set_defaults(command=_profile, command_parser=parser, further="logs")
    parser.add_argument("logs", nargs="+", metavar="LOG", help="a file to which a server has logged requests")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        required=True,
        help="folder of the model's version, into which profile.json is written",
    )
    parser.add_argument("--model", metavar="NAME", help="use only the requests for this model (default: all)")


def _profile(parser: argparse.ArgumentParser, values: dict[str, Any]) -> int:
    del parser
    file = Path(values["output"]) / PROFILE_FILE
    try:
        if not file.parent.is_dir():
            raise ProfileError(f"{file} cannot be written: there is no folder {file.parent}")
        requests = list(islice(_requests(map(Path, values["logs"]), values.get("model", "")), MOST_REQUESTS))
        document = profile_of_requests(requests)
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except ProfileError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"headrace: {file} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    inputs: Mapping[str, Any] = document["inputs"]
    print(f"{file}: {document['rows']} rows of {', '.join(inputs)}")
    return 0


def profile_of_requests(requests: Iterable[Arrays]) -> dict[str, Any]:
    """The profile of the requests' rows, in the toolkit's format; requests unlike the first are left out.

    Raises:
        ProfileError: There are no requests.
    """
    from headrace_toolkit.data import Data
    from headrace_toolkit.profile import profile_of

    kept: list[Arrays] = []
    for inputs in requests:
        if inputs and all(array.ndim for array in inputs.values()) and (not kept or _are_alike(inputs, kept[0])):
            kept.append(inputs)
    if not kept:
        raise ProfileError("the logs hold no Predict for this model whose inputs have rows")
    joined: dict[str, Array] = {alias: np.concatenate([inputs[alias] for inputs in kept]) for alias in kept[0]}
    return profile_of(Data("requests", "", joined))


def _requests(files: Iterable[Path], model: str) -> Iterator[Arrays]:
    for file in files:
        try:
            yield from _requests_of(file, model)
        except OSError as error:
            raise ProfileError(f"{file} cannot be read: {error.strerror}") from error
        except (CorruptRecordError, DecodeError, TensorError) as error:
            raise ProfileError(f"{file} is not a request log (a TFRecord file of PredictionLogs): {error}") from error


def _requests_of(file: Path, model: str) -> Iterator[Arrays]:
    with file.open("rb") as opened:
        for record in read_records(opened):
            log = PredictionLog.FromString(record)
            asked = log.predict_log.request.model_spec.name
            if log.WhichOneof("log_type") == "predict_log" and model in ("", asked):
                yield inputs_of(log)[1]


def _are_alike(inputs: Arrays, first: Arrays) -> bool:
    return inputs.keys() == first.keys() and all(
        array.shape[1:] == first[alias].shape[1:] and array.dtype == first[alias].dtype
        for alias, array in inputs.items()
    )
