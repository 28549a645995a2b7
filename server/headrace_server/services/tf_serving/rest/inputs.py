"""Converts the body of a :predict call to arrays: rows under `instances`, or whole inputs under `inputs`."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

from headrace_batching.task import Arrays
from headrace_protos import Code, DataType
from headrace_server.backends.signature import DEFAULT_SIGNATURE
from headrace_server.errors import ServingError, invalid
from headrace_server.services.json.arrays import BASE64_KEY, first_wrong, is_base64, regular_array, to_array, too_deep
from headrace_server.services.json.text import show

DTypes = Mapping[str, DataType]
"""The dtype of each input of a signature, by alias."""


@dataclass(frozen=True, slots=True)
class PredictBody:
    """The content of a request's body.

    Attributes:
        signature_name: The signature's name in the body; empty means the default.
        inputs: Arrays by alias; empty if no signatures were known.
        by_row: Whether the inputs were given row by row, as the outputs must then be, too.
    """

    signature_name: str
    inputs: Arrays
    by_row: bool


def read_predict(
    document: dict[str, Any], signatures: Mapping[str, DTypes] | None, optional: Mapping[str, DTypes] = {}
) -> PredictBody:
    """Parses a body with the signature that it names.

    Args:
        document: The parsed body.
        signatures: Inputs by the name of their signature; if None, only the name is read.
        optional: The inputs that a body may leave out, in the same form.

    Raises:
        ServingError: INVALID_ARGUMENT or UNIMPLEMENTED. TF Serving's json_tensor.cc has the texts, and
            http_rest_api_handler.cc that of an unknown signature.
    """
    name = signature_name(document)
    if signatures is None:
        return PredictBody(name, {}, by_row=False)
    key = name or DEFAULT_SIGNATURE
    if key not in signatures:
        raise invalid(f'Serving signature name: "{key}" not found in signature def')
    dtypes = signatures[key]
    if not dtypes:
        raise invalid(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    by_row = "instances" in document
    if optional.get(key):
        dtypes = {**dtypes, **_sent(document, optional[key], by_row=by_row)}
    return PredictBody(name, _inputs(document, dtypes, by_row=by_row), by_row)


def _sent(document: dict[str, Any], optional: DTypes, *, by_row: bool) -> DTypes:
    """The optional inputs for which a body has values."""
    value = document.get("instances" if by_row else "inputs")
    first = value[0] if by_row and isinstance(value, list) and value else value
    return {alias: dtype for alias, dtype in optional.items() if isinstance(first, dict) and alias in first}


def signature_name(document: dict[str, Any]) -> str:
    """The signature that a body names; empty if it names none.

    Raises:
        ServingError: INVALID_ARGUMENT if it is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise misformatted(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return name


def misformatted(document: dict[str, Any], what: str) -> ServingError:
    """An INVALID_ARGUMENT that shows the document."""
    return invalid(f"JSON Value: {show(document)} {what}")


def _inputs(document: dict[str, Any], dtypes: DTypes, *, by_row: bool) -> Arrays:
    if not by_row:
        if "inputs" not in document:
            raise invalid("Missing 'inputs' or 'instances' key")
        return _from_columns(document["inputs"], dtypes)
    if "inputs" in document:
        what = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        raise misformatted(document, what)
    instances = document["instances"]
    if not isinstance(instances, list):
        raise misformatted(document, "Expecting 'instances' to be an list/array")
    if not instances:
        raise misformatted(document, "No values in 'instances' array")
    return _from_rows(instances, dtypes)


def _from_columns(value: Any, dtypes: DTypes) -> Arrays:
    if _is_record(value):
        return {alias: to_array(_named(value, alias), dtype) for alias, dtype in dtypes.items()}
    if len(dtypes) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    return {alias: to_array(value, dtype) for alias, dtype in dtypes.items()}


def _named(inputs: dict[str, Any], alias: str) -> Any:
    if alias not in inputs:
        raise invalid(f"Missing named input: {alias} in 'inputs' object.")
    return inputs[alias]


def _from_rows(instances: list[Any], dtypes: DTypes) -> Arrays:
    if len(dtypes) > 1 and not isinstance(instances[0], dict):
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    arrays = _stacked(instances, dtypes)
    if arrays is None:
        _refuse_rows(instances, dtypes)
    return arrays


def _stacked(instances: list[Any], dtypes: DTypes) -> Arrays | None:
    """Converts all rows together; None if a row differs from the others."""
    values: dict[str, list[Any]]
    if not _is_record(instances[0]):
        values = {next(iter(dtypes)): instances}
    elif _all_records(instances, dtypes):
        values = {alias: [row[alias] for row in instances] for alias in dtypes}
    else:
        return None
    arrays = {}
    for alias, value in values.items():
        array = regular_array(value, dtypes[alias])
        if array is None:
            return None
        arrays[alias] = array
    return arrays


def _all_records(instances: list[Any], dtypes: DTypes) -> bool:
    """Whether each row is an object that names all inputs, and does not stand for a string."""
    aliases = dtypes.keys()
    if set(map(type, instances)) != {dict} or not all(row.keys() == aliases for row in instances):
        return False
    return aliases != {BASE64_KEY} or not any(map(is_base64, instances))


def _refuse_rows(instances: list[Any], dtypes: DTypes) -> NoReturn:
    """Finds the first row whose form differs from that of the first row."""
    first = instances[0]
    wrong = first_wrong(
        1, len(instances), lambda start, stop: _stacked([first, *instances[start:stop]], dtypes) is None
    )
    rows = _Rows(dtypes)
    named = _is_record(instances[0])
    for position, row in [(0, first), *((wrong, row) for row in instances[wrong : wrong + 1])]:
        if named and not _is_record(row):
            raise invalid(f"Expecting object but got list at item {position} of input list")
        if not named and _is_record(row):
            raise invalid(f"Expecting value/list but got object at item {position} of input list")
        if named:
            rows.check_record(position, row)
        else:
            rows.check(f"element: {position}", next(iter(dtypes)), row)
    raise too_deep()  # each row fits, but together they have one dimension too many


class _Rows:
    """The rows so far, which the following rows must match."""

    def __init__(self, dtypes: DTypes) -> None:
        self._dtypes = dtypes
        self._shapes: dict[str, tuple[int, ...]] = {}

    def check_record(self, position: int, row: dict[str, Any]) -> None:
        for alias, value in row.items():
            self.check(f"element: {position} key: {alias}", alias, value)
        if row.keys() != self._dtypes.keys():
            raise invalid(
                f"Failed to process element: {position} of 'instances' list. JSON object: {show(row)} "
                f"keys must be equal to: {','.join(sorted(self._dtypes))}"
            )

    def check(self, where: str, alias: str, value: Any) -> None:
        try:
            self._check_value(alias, value)
        except ServingError as error:
            what = f"{Code.Name(error.code)}: {error.message}"
            raise invalid(f"Failed to process {where} of 'instances' list. Error: {what}") from error

    def _check_value(self, alias: str, value: Any) -> None:
        if alias not in self._dtypes:
            raise invalid(f"JSON object: does not have named input: {alias}")
        shape = to_array(value, self._dtypes[alias]).shape
        first = self._shapes.setdefault(alias, shape)
        if prod(shape) != prod(first):
            raise invalid(f"Expecting tensor size: {prod(first)} but got: {prod(shape)}")
        if shape != first:
            raise invalid(f"Expecting shape {_bracketed(first)} but got: {_bracketed(shape)}")


def _bracketed(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _is_record(value: Any) -> bool:
    """Whether a value is an object that names inputs."""
    return isinstance(value, dict) and not is_base64(value)
