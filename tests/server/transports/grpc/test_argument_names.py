"""Channel arguments without an effect: each is reported, with the name that was probably meant."""

import logging

import pytest

from headrace_server.transports.grpc.addresses import channel_arguments
from headrace_server.transports.grpc.argument_names import complaints
from tests.conftest import Run
from tests.support import models

LENGTH, AGE = "grpc.max_receive_message_length", "grpc.max_connection_age_ms"

CASES = {
    "grpc.max_recieve_message_length=5": f"grpc.max_recieve_message_length is unknown; did you mean {LENGTH}?",
    "max_concurrent_streams=5": "max_concurrent_streams is unknown; did you mean grpc.max_concurrent_streams?",
    "x=y": "x is unknown",
    "grpc.max_concurrent_streams=many": "grpc.max_concurrent_streams must be an integer of 32 bits; was 'many'",
    f"{LENGTH}=4MB": f"{LENGTH} must be an integer of 32 bits; was '4MB'",
}


@pytest.mark.parametrize("text", CASES)
def test_wrong_arguments(text: str) -> None:
    assert list(complaints(channel_arguments(text))) == [CASES[text]]


def test_right_arguments_are_not_reported() -> None:
    assert not list(complaints(channel_arguments("grpc.max_concurrent_streams=5,grpc.keepalive_time_ms=-1")))


def test_a_server_warns(running: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    running(models.linear, grpc_channel_arguments="grpc.max_conection_age_ms=5")

    assert f"--grpc_channel_arguments: grpc.max_conection_age_ms is unknown; did you mean {AGE}?" in caplog.text
