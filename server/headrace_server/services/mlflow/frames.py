"""Tables as MLflow's clients send them: pandas' `split` and `records` orientations, and CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace_server.errors import ServingError, invalid

_SPLIT_KEYS = {"columns", "data", "index"}


@dataclass(frozen=True, slots=True)
class Frame:
    """A table of inputs, as a DataFrame holds it.

    Attributes:
        columns: The names of the columns.
        rows: A list of cells for each row, one for each column; a missing cell is None.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def is_flat(self) -> bool:
        """Whether no cell is a list."""
        return not any(isinstance(cell, list) for row in self.rows for cell in row)

    def column(self, name: str) -> list[Any]:
        """The cells of a column."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]


def read_split(value: Any) -> Frame:
    """Reads the table in `dataframe_split`; its index is ignored.

    Raises:
        ServingError: INVALID_ARGUMENT. MLflow's proto_json_utils.py has the texts.
    """
    if not isinstance(value, dict):
        raise invalid(f"Invalid input. Dataframe split format must be a dictionary. Got {_kind(value)}.")
    if "data" not in value or value.keys() - _SPLIT_KEYS:
        raise invalid(
            "Invalid input. Dataframe split format must have 'data' field and optionally 'columns' and 'index' fields. "
            f"Got {_braced(value)}.'"
        )
    data, columns = value["data"], value.get("columns")
    if not isinstance(data, list):
        raise _not_split(f"its data are {_kind(data)}")
    rows = [row if isinstance(row, list) else [row] for row in data]
    if columns is None:
        columns = list(range(len(rows[0]) if rows else 0))
    if not isinstance(columns, list):
        raise _not_split(f"its columns are {_kind(columns)}")
    names = [str(name) for name in columns]
    for row in rows:
        if len(row) != len(names):
            raise _not_split(f"{len(names)} columns passed, passed data had {len(row)} columns")
    return Frame(names, rows)


def read_records(value: Any) -> Frame:
    """Reads the table in `dataframe_records`; columns are all those that any record has.

    Raises:
        ServingError: INVALID_ARGUMENT. MLflow's proto_json_utils.py has the texts.
    """
    if not isinstance(value, list):
        raise invalid(f"Invalid input. Dataframe records format must be a list of records. Got {_kind(value)}.")
    if not all(isinstance(record, dict) for record in value):
        raise invalid(
            "Invalid input. Provided dataframe_records field is not a valid dataframe representation in 'records' "
            "format. Error: 'each record must be an object'"
        )
    columns = tuple(dict.fromkeys(name for record in value for name in record))
    return Frame(columns, [[record.get(name) for name in columns] for record in value])


def read_csv(text: str) -> Frame:
    """Reads the table in a CSV body, whose first line names the columns. Cells are texts; an empty one is None.

    Raises:
        ServingError: INVALID_ARGUMENT if the text is not such a table.
    """
    try:
        columns, *rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as error:
        raise _not_csv(str(error)) from error
    except ValueError:
        raise _not_csv("No columns to parse from file") from None
    for number, row in enumerate(rows, start=2):
        if len(row) > len(columns):
            raise _not_csv(f"Expected {len(columns)} fields in line {number}, saw {len(row)}")
    return Frame(columns, [[cell or None for cell in row] + [None] * (len(columns) - len(row)) for row in rows])


def _not_split(why: str) -> ServingError:
    return invalid(
        "Invalid input. Provided dataframe_split field is not a valid dataframe representation in 'split' format. "
        f"Error: '{why}'"
    )


def _not_csv(why: str) -> ServingError:
    return invalid(
        "Failed to parse input as a Pandas DataFrame. Ensure that the input is a valid CSV-formatted Pandas DataFrame "
        f"produced using the `pandas.DataFrame.to_csv()` method. Error: '{why}'"
    )


def _kind(value: Any) -> str:
    """MLflow's name for the type of a JSON value."""
    if isinstance(value, dict):
        return "dictionary"
    return "list" if isinstance(value, list) else f"type {type(value)}"


def _braced(names: dict[str, Any]) -> str:
    return "{" + ", ".join(repr(name) for name in sorted(names)) + "}"
