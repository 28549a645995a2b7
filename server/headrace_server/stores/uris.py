"""Determines whether a base path is the URI of a store, and which store it is."""

import re
from importlib.util import find_spec

from headrace_server.stores.base import Store, StoreError

OBJECT_STORES = ("s3", "gs", "az", "abfs", "abfss")
SCHEMES = (*OBJECT_STORES, "hf", "oci", "https", "http")

STORES = ", ".join((*(f"{scheme}://" for scheme in SCHEMES), "models:/"))
"""The beginnings of all URIs of stores, as error messages list them."""

_URI = re.compile(rf"(?:{'|'.join(SCHEMES)})://.+|models:/.+")


def is_remote(base_path: str) -> bool:
    """Whether a base path is in a store rather than a folder on this machine."""
    return _URI.fullmatch(base_path) is not None


def check_installed(uri: str) -> None:
    """Refuses a URI whose store needs a package that is not installed, before anything waits for the store.

    Raises:
        StoreError: The package is missing.
    """
    if uri.partition(":")[0] in OBJECT_STORES and find_spec("obstore") is None:
        raise StoreError(f"{uri}: object stores need obstore: pip install 'headrace[stores]'")


def open_store(uri: str) -> Store:
    """The store of a URI; its dependencies are imported only now.

    Raises:
        StoreError: The URI is incomplete, or an environment variable is missing.
    """
    scheme = uri.partition(":")[0]
    if scheme == "hf":
        from headrace_server.stores.hugging_face import HuggingFaceStore

        return HuggingFaceStore(uri)
    if scheme == "oci":
        from headrace_server.stores.oci import OciStore

        return OciStore(uri)
    if scheme == "models":
        from headrace_server.stores.mlflow import MlflowStore

        return MlflowStore(uri)
    if scheme in ("https", "http"):
        from headrace_server.stores.archives import ArchiveStore

        return ArchiveStore(uri)
    if scheme in OBJECT_STORES:
        from headrace_server.stores.object_store import ObjectStore

        return ObjectStore(uri)
    raise StoreError(f"{uri} is not the URI of a store; expected one of {STORES}")


def name_of(uri: str) -> str:
    """The default name of a model at a URI: the last part, without a revision or an extension."""
    last = uri.rstrip("/").rpartition("/")[2].partition("?")[0]
    last = last.partition("@")[0] if not last.startswith("@") else last
    if uri.startswith("oci://"):
        last = last.partition(":")[0]
    return re.sub(r"\.(tar|tgz|zip|onnx|tar\.\w+)$", "", last) or "model"
