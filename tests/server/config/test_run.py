"""The configuration of a run: its defaults, the values that it refuses, and that it cannot be changed."""

import re
from dataclasses import FrozenInstanceError, fields
from math import inf, nan

import pytest

from headrace_batching import Options
from headrace_batching.option import default_of
from headrace_protos import Code
from headrace_server.commands.flags import FLAGS, config_of
from headrace_server.config.checks import check
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.config.run import MANY_BATCHES, Config
from headrace_server.errors import ServingError
from headrace_server.server import Server


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
def test_defaults_that_differ_from_those_of_tf_serving(name: str, ours: object, theirs: object) -> None:
    field = next(field for field in fields(Config) if field.name == name)

    assert (field.default, field.metadata["tensorflow"]) == (ours, theirs)


def test_batching_is_on_by_default() -> None:
    assert Config().enable_batching
    assert Config().batching == Options(larger_alone=True, max_enqueued_batches=MANY_BATCHES)


def test_every_help_text_is_one_line() -> None:
    texts = [field.metadata["help"] for field in fields(Config) if "help" in field.metadata]

    assert all(len(text) > 20 and "\n" not in text and not text.endswith(".") for text in texts)


def test_a_configuration_cannot_be_changed() -> None:
    config = Config()
    with pytest.raises(FrozenInstanceError):
        config.port = 1  # type: ignore[misc]


BAD_VALUES = {bool: "yes", int: "many", float: "soon", str: 5, tuple: (-1,), dict: {"x": 5}}
ALSO_BAD = {
    "port": 65536,
    "drain_seconds": -1.0,
    "num_load_threads": -3,
    "transport": "foo",
    "aspired_version_policy": "foo",
    "tensorrt_devices": (0, 0),
    "onnxruntime_gpu_instances": 0,
    "rest_api_max_body_mb": 0,
}


def configured(name: str, value: object) -> Config:
    """The configuration of a run with one flag set."""
    return config_of({"model_base_path": "/m", name: value})


class TestEveryFlag:
    @pytest.mark.parametrize("name", FLAGS)
    def test_may_have_its_default(self, name: str) -> None:
        check(configured(name, default_of(FLAGS[name]) if name != "model_base_path" else "/m"))

    @pytest.mark.parametrize("name", FLAGS)
    def test_refuses_a_value_of_another_type_with_the_same_kind_of_error(self, name: str) -> None:
        bad = BAD_VALUES[FLAGS[name].metadata["rule"].kind]
        with pytest.raises(ServingError) as refused:
            check(configured(name, bad))

        assert refused.value.code is Code.INVALID_ARGUMENT
        assert refused.value.message.startswith(f"--{name} must be ")
        assert refused.value.message.endswith(f"; was {bad!r}")

    @pytest.mark.parametrize("name", ALSO_BAD)
    def test_refuses_a_value_out_of_range_with_the_same_kind_of_error(self, name: str) -> None:
        with pytest.raises(ServingError, match=rf"^--{name} must be .*; was {re.escape(repr(ALSO_BAD[name]))}$"):
            check(configured(name, ALSO_BAD[name]))

    @pytest.mark.parametrize("value", [-1.0, inf, nan])
    def test_refuses_infinite_times(self, value: float) -> None:
        with pytest.raises(ServingError, match=r"^--drain_seconds must be a finite number of at least 0; was"):
            check(configured("drain_seconds", value))


class TestOptionsOfARuntime:
    def test_are_refused_by_the_flags_name(self) -> None:
        config = Config(model_base_path="/m", onnxruntime=OnnxruntimeOptions(gpu_memory_limit_mb=-5))
        with pytest.raises(
            ServingError, match=r"^--onnxruntime_gpu_memory_limit_mb must be a whole number of at least 0; was -5$"
        ):
            Server(config)

    def test_are_flags_with_a_prefix(self) -> None:
        config = config_of({"port": 1, "onnxruntime_device_id": 2, "onnxruntime_providers": "A,B,"})

        assert (config.port, config.onnxruntime) == (1, OnnxruntimeOptions(device_id=2, providers=("A", "B")))
        assert config_of({}) == Config()
        assert config_of({name: flag.default for name, flag in FLAGS.items()}) == Config()
