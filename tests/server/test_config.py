"""What a run is told when it is told nothing, and what it may not change afterwards."""

from dataclasses import FrozenInstanceError, fields

import pytest

from headrace_batching import Options
from headrace_server.config import Config


# TF Serving: main.cc.
@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("port", 8500),
        ("model_name", "default"),
        ("model_base_path", ""),
        ("batching_parameters_file", ""),
        ("file_system_poll_wait_seconds", 1),
        ("model_config_file", ""),
        ("model_config_file_poll_wait_seconds", 0),
        ("num_load_threads", 0),
        ("num_unload_threads", 0),
        ("max_num_load_retries", 5),
        ("allow_version_labels_for_unavailable_models", False),
        ("enable_per_model_batching_parameters", False),
        ("tensorflow_session_parallelism", 0),
        ("tensorflow_intra_op_parallelism", 0),
        ("tensorflow_inter_op_parallelism", 0),
        ("enable_serialization_as_tensor_content", False),
        ("grpc_channel_arguments", ""),
    ],
)
def test_a_default_is_that_of_tf_serving(name: str, default: object) -> None:
    value = getattr(Config(), name)

    assert (value, type(value)) == (default, type(default))


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("enable_batching", True, False),
        ("enable_grpc_healthcheck_service", True, False),
        ("load_retry_interval_micros", 1_000_000, 60_000_000),
    ],
)
def test_a_default_of_our_own_stands_beside_that_of_tf_serving(name: str, ours: object, theirs: object) -> None:
    field = next(field for field in fields(Config) if field.name == name)

    assert (field.default, field.metadata["tensorflow"]) == (ours, theirs)


def test_batching_is_on_unless_told_otherwise() -> None:
    assert Config().enable_batching
    assert Config().batching == Options()


def test_every_help_text_is_one_line_that_says_something() -> None:
    texts = [field.metadata["help"] for field in fields(Config) if "help" in field.metadata]

    assert all(len(text) > 20 and "\n" not in text and not text.endswith(".") for text in texts)


def test_it_cannot_be_changed() -> None:
    config = Config()
    with pytest.raises(FrozenInstanceError):
        config.port = 1  # type: ignore[misc]
