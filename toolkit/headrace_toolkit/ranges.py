"""The largest values of options that flags and recipes share."""

MOST_CALLS = 1 << 16
"""The largest `load`, a number of calls in flight: each call is an object with a row of its own."""

MOST_SECONDS = 3600.0
"""The maximum number of CPU seconds for timing."""

LARGEST_SEED = (1 << 32) - 1
"""The largest seed that NumPy's, scikit-learn's and PyTorch's generators all accept."""

LARGEST_VERSION = (1 << 63) - 1
"""The largest version of a model: an int64 in TF Serving's messages."""
