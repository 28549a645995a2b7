"""What this server adds to the Open Inference Protocol, by name."""

BATCHING = "headrace.batching."
"""Before a signature's name, the parameter of a ModelConfig that says what becomes of its requests, and why."""
