"""What this server adds to the Open Inference Protocol, by name."""

BATCHING = "headrace.batching."
"""The prefix, before a signature's name, of the ModelConfig parameter that says how its requests run, and why."""
