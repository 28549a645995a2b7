"""The profiler's calls while no model runs in TensorFlow; tests with SavedModels cover calls that are answered."""

from grpc import StatusCode

from tests.conftest import Run
from tests.support import models
from tests.support.calls import Refusal

MONITOR = "/tensorflow.ProfilerService/Monitor"


def test_without_tensorflow_there_is_nothing_to_profile(running: Run) -> None:
    refused = running(models.linear, enable_profiler=True).caller.send_bytes(MONITOR, b"")

    assert refused == Refusal(
        StatusCode.FAILED_PRECONDITION, "No model runs in TensorFlow, so there is nothing to profile."
    )


def test_the_profiler_is_off_by_default(running: Run) -> None:
    refused = running(models.linear).caller.send_bytes(MONITOR, b"")

    assert isinstance(refused, Refusal)
    assert refused.code == StatusCode.UNIMPLEMENTED
