"""Puts load on bare gRPC responders, headrace and the bare runtime in turn, and compares them in a report."""
