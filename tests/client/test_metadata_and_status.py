"""What the clients report about a model: its signatures, and the state of its versions."""

import grpc
import ml_dtypes
import numpy as np
import pytest

from headrace_client import Client, ModelMetadata, Signature, TensorSpec, VersionStatus

from .service import LOAD_ERROR

AVAILABLE = VersionStatus(3, "AVAILABLE", grpc.StatusCode.OK, "")
FAILED = VersionStatus(2, "END", grpc.StatusCode.RESOURCE_EXHAUSTED, LOAD_ERROR)


def test_metadata_is_every_signature_with_its_dtypes_and_shapes(client: Client) -> None:
    x = TensorSpec(np.dtype(np.float32), (None, 4))
    rows = TensorSpec(np.dtype(np.int64), (1,))
    text = TensorSpec(np.dtype(object), None)
    score = TensorSpec(np.dtype(ml_dtypes.bfloat16), ())

    assert client.metadata("half_plus_two") == ModelMetadata(
        "half_plus_two",
        3,
        {
            "__saved_model_init_op": Signature({}, {"__saved_model_init_op": TensorSpec(None, None)}),
            "serving_default": Signature({"x": x}, {"y": x, "rows": rows}),
            "score": Signature({"text": text}, {"score": score}),
        },
    )


def test_status_is_every_version_in_the_order_of_the_server(client: Client) -> None:
    assert client.status("half_plus_two") == (AVAILABLE, FAILED)


def test_status_of_one_version(client: Client) -> None:
    assert client.status("half_plus_two", version=2) == (FAILED,)


def test_metadata_takes_a_version_or_a_label_but_not_both(client: Client) -> None:
    with pytest.raises(ValueError, match=r"version \(3\) and label \('stable'\)"):
        client.metadata("half_plus_two", version=3, label="stable")
