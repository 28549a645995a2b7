"""The names of files by which a version is known to be signed or sealed."""

SIGNATURE_FILE = "model.sig"
"""Of a version's folder; that of a version that is one file is called like the file, with `.sig` behind."""

SEALED_FILE = "model.sealed"
