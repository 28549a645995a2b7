"""The names of files that show that a version is signed or sealed."""

SIGNATURE_FILE = "model.sig"
"""The signature's name in a version's folder; for a version that is one file, it is the file's name with `.sig`."""

SEALED_FILE = "model.sealed"

MODEL_KEYS_VARIABLE = "HEADRACE_MODEL_KEYS"
"""The environment variable with the keys of sealed models."""
