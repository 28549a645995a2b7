"""Determines by running a model whether the rows of a batch influence each other."""

from headrace_server.backends.independence.evidence import Evidence, repeated_batch_name
from headrace_server.backends.independence.hints import NO_HINTS, Hints
from headrace_server.backends.independence.subject import Subject
from headrace_server.backends.independence.totals import with_totals
from headrace_server.backends.independence.trial import try_padding, try_rows
from headrace_server.backends.independence.verdict import Finding, Verdict

__all__ = [
    "NO_HINTS",
    "Evidence",
    "Finding",
    "Hints",
    "Subject",
    "Verdict",
    "repeated_batch_name",
    "try_padding",
    "try_rows",
    "with_totals",
]
