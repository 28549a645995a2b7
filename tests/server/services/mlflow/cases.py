"""Requests in MLflow's scoring protocol, and a client for them."""

import json
from contextlib import closing
from typing import NamedTuple

from tests.support.rest_calls import RestCaller

JSON = "application/json"
CSV = "text/csv"


class Case(NamedTuple):
    """One request.

    Attributes:
        name: A short description.
        model: `one` and `two` are models with that many inputs; `bare` is `one` without a signature in MLflow.
        content_type: The Content-Type header.
        body: The request body.
    """

    name: str
    model: str
    content_type: str
    body: str


def _json(name: str, model: str, body: object) -> Case:
    return Case(name, model, JSON, json.dumps(body))


ROW, ROWS = [[1, 2, 3, 4]], [[1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]]
PAIR = {"a": [[1, 2]], "b": [[3, 4]]}

CASES = (
    _json("inputs by name", "one", {"inputs": {"x": ROWS}}),
    _json("inputs as a list", "one", {"inputs": ROWS}),
    _json("instances as rows", "one", {"instances": ROWS}),
    _json("instances as records", "one", {"instances": [{"x": row} for row in ROWS]}),
    _json("instances as columns", "one", {"instances": {"x": ROWS}}),
    _json("a split frame of lists", "one", {"dataframe_split": {"columns": ["x"], "data": [[row] for row in ROWS]}}),
    _json("records of lists", "one", {"dataframe_records": [{"x": row} for row in ROWS]}),
    _json("params", "one", {"inputs": ROWS, "params": {"temperature": 1}}),
    _json("params that are a list", "one", {"inputs": ROW, "params": [1]}),
    _json("numbers as text", "one", {"inputs": [["1", "2", "3", "4.5"]]}),
    _json("true and false", "one", {"inputs": [[True, False, True, 2]]}),
    _json("null", "one", {"inputs": [[None, 1, 2, 3]]}),
    Case("NaN", "one", JSON, '{"inputs": [[NaN, 1, 2, 3], [Infinity, 1, 2, 3]]}'),
    Case("a charset", "one", "application/json; charset=UTF-8", '{"inputs": [[1, 2, 3, 4]]}'),
    _json("an input too many", "one", {"inputs": {"x": ROW, "other": [1]}}),
    _json("two inputs", "two", {"inputs": PAIR}),
    _json("two inputs as records", "two", {"instances": [{"a": [1, 2], "b": [3, 4]}, {"a": [5, 6], "b": [7, 8]}]}),
    _json(
        "two inputs as a split frame", "two", {"dataframe_split": {"columns": ["a", "b"], "data": [[[1, 2], [3, 4]]]}}
    ),
    _json(
        "a split frame with an index",
        "one",
        {"dataframe_split": {"index": [0], "columns": ["x"], "data": [[[1, 2, 3, 4]]]}},
    ),
    Case("csv", "bare", CSV, "c0,c1,c2,c3\n1,2,3,4\n0.1,0.2,0.3,0.4\n"),
    _json("a split frame of columns", "bare", {"dataframe_split": {"columns": list("pqrs"), "data": ROWS}}),
    _json(
        "records of columns",
        "bare",
        {"dataframe_records": [{"p": 1, "q": 2, "r": 3, "s": 4}, {"p": 0.1, "q": 0.2, "r": 0.3, "s": 0.4}]},
    ),
)
"""Requests that are answered."""

REFUSED = (
    Case("not JSON", "one", JSON, "{"),
    Case("nothing", "one", JSON, ""),
    _json("a list", "one", ROWS),
    _json("a number", "one", 7),
    _json("an empty object", "one", {}),
    _json("two formats", "one", {"inputs": ROW, "instances": ROW}),
    _json("records that are no list", "one", {"dataframe_records": {"x": [1]}}),
    _json("a split frame that is a list", "one", {"dataframe_split": ROW}),
    _json("a split frame without data", "one", {"dataframe_split": {"columns": ["x"]}}),
    _json("a split frame with another key", "one", {"dataframe_split": {"columns": ["x"], "data": [[1]], "rows": 1}}),
    _json("a split frame of too few columns", "one", {"dataframe_split": {"columns": ["x"], "data": [[1, 2]]}}),
    _json("uneven rows", "one", {"inputs": [[1, 2, 3, 4], [1, 2]]}),
    _json("a word for a number", "one", {"inputs": [["one", 2, 3, 4]]}),
    _json("too few numbers", "one", {"inputs": [[1, 2, 3]]}),
    _json("an unknown name", "one", {"inputs": {"z": ROW}}),
    _json("a missing input", "two", {"inputs": {"a": [[1, 2]]}}),
    _json("a list for two inputs", "two", {"inputs": [[1, 2]]}),
    _json("instances of different lengths", "two", {"instances": {"a": [[1, 2]], "b": [[1, 2], [3, 4]]}}),
    Case("csv that is not", "bare", CSV, ""),
    Case("csv of uneven rows", "bare", CSV, "a,b,c,d\n1,2,3,4\n1,2,3,4,5\n"),
    Case("text", "one", "text/plain", "{}"),
    Case("another charset", "one", "application/json; charset=latin-1", "{}"),
    Case("another parameter", "one", "application/json; format=pandas-split", "{}"),
)
"""Requests that are refused."""


def ask(port: int, case: Case) -> tuple[int, str, str]:
    """Sends a request; returns the status, the content type and the text of the answer."""
    with closing(RestCaller(port)) as caller:
        answer = caller.send("POST", "/invocations", case.body.encode(), {"Content-Type": case.content_type})
    return answer.status, answer.headers["content-type"], answer.text
