"""The names of this server's additions to the Open Inference Protocol."""

BATCHING = "headrace.batching."
"""The prefix, before a signature's name, of the ModelConfig parameter that says how its requests run, and why."""
