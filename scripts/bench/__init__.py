"""Loads bare gRPC responders, headrace and the bare runtime in turn, and reports them side by side."""
