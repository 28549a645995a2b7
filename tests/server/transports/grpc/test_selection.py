"""Which transport a name selects, and the error if there is none."""

import sys
from pathlib import Path

import pytest

from headrace_batching.queue import Queue
from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.transports import grpc as transports
from headrace_server.transports.grpc.selection import choose, make_queue

BROKEN = "raise ImportError('built for another machine')"
OTHER_VERSION = "INTERFACE = 0\nServer = Call = Queue = Route = Routes = Tls = Certificates = HttpEndpoint = object"


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes all traces of an import of the native transport, also after the test."""
    ours = "headrace_server.transports.grpc."
    for module in ("headrace_native", f"{ours}native_impl", f"{ours}native_calls"):
        # If the module is missing, monkeypatch has nothing to restore, and a module that a test imports would stay.
        monkeypatch.setitem(sys.modules, module, sys)
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(transports, "native_impl", None, raising=False)
    monkeypatch.delattr(transports, "native_impl")


def install(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a headrace_native before any other on the path."""
    (folder / "headrace_native.py").write_text(text)
    monkeypatch.syspath_prepend(folder)


def test_auto_falls_back_where_the_package_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_server.transports.grpc.selection.find_spec", lambda _: None)
    assert choose("auto") == "grpcio"


def test_named_package_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "headrace_native", None)
    with pytest.raises(ServingError, match=r"pip install headrace-native, or --transport=grpcio") as raised:
        make_queue("native")
    assert raised.value.code == Code.FAILED_PRECONDITION


@pytest.mark.parametrize("name", ["auto", "native"])
@pytest.mark.parametrize(
    ("package", "said"), [(BROKEN, "built for another machine"), (OTHER_VERSION, "has interface 0")]
)
def test_package_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, said: str
) -> None:
    install(tmp_path, package, monkeypatch)
    with pytest.raises(ServingError, match=said) as raised:
        make_queue(choose(name))
    assert raised.value.code == Code.FAILED_PRECONDITION


def test_grpcio_asks_for_nothing_native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, BROKEN, monkeypatch)
    assert isinstance(make_queue("grpcio"), Queue)


def test_alts_is_for_grpcio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, OTHER_VERSION, monkeypatch)
    assert choose("auto", alts=True) == "grpcio"
    with pytest.raises(ServingError, match="the native transport does not support ALTS") as raised:
        choose("native", alts=True)
    assert raised.value.code == Code.INVALID_ARGUMENT
