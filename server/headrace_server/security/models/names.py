"""The names of files that show that a version is signed or sealed."""

SIGNATURE_FILE = "model.sig"
"""The signature's name in a version's folder; for a version that is one file, it is the file's name with `.sig`."""

SEALED_FILE = "model.sealed"
