"""Answers for requests that are refused before they reach an API."""

from headrace_server.services.http import HttpAnswer
from headrace_server.services.tf_serving.rest.outputs import write_error


def too_large(most: int) -> HttpAnswer:
    """The answer to a body that is too large."""
    return refusal(413, f"the body is larger than {most} bytes (--rest_api_max_body_mb)")


def refusal(status: int, text: str) -> HttpAnswer:
    """The answer to a request whose body has not been read to its end."""
    return HttpAnswer(status, write_error(text), {"Content-Type": "application/json", "Connection": "close"})
