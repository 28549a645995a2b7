"""How the platform file and the session file change a configuration, and the errors of bad files."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace_batching import Options
from headrace_protos import Code
from headrace_server.config.platform import with_files
from headrace_server.config.run import Config
from headrace_server.errors import ServingError

ADAPTER = "type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig"

BUNDLE = """
    batching_parameters {
      max_batch_size { value: 64 }
      allowed_batch_sizes: [8, 64]
    }
    session_config { intra_op_parallelism_threads: 3 gpu_options { allow_growth: true } }
    saved_model_tags: "serve"
    saved_model_tags: "gpu"
    enable_model_warmup: true
    model_warmup_options { num_request_iterations { value: 5 } }
    prefer_tflite_model: true
    num_tflite_pools: 2
    enable_per_model_batching_params: true
    enable_session_metadata: true
"""


def platform(tmp_path: Path, bundle: str, *, name: str = "tensorflow", kind: str = ADAPTER) -> str:
    """Writes a platform file; returns its path."""
    file = tmp_path / "platform.pbtxt"
    body = f"legacy_config {{ {bundle} }}" if kind == ADAPTER else bundle
    adapter = f"value {{ source_adapter_config {{ [{kind}] {{ {body} }} }} }}"
    file.write_text(f'platform_configs {{ key: "{name}" {adapter} }}')
    return str(file)


def session(tmp_path: Path, text: str) -> str:
    """Writes a session file; returns its path."""
    file = tmp_path / "session.pbtxt"
    file.write_text(text)
    return str(file)


def refusal(config: Config) -> tuple[Code, str]:
    with pytest.raises(ServingError) as raised:
        with_files(config)
    return raised.value.code, raised.value.message


def test_without_files_nothing_changes() -> None:
    config = Config(tensorflow_session_parallelism=4)

    assert with_files(config) is config


def test_everything_that_a_platform_file_can_set(tmp_path: Path) -> None:
    config = Config(platform_config_file=platform(tmp_path, BUNDLE), enable_batching=False)

    assert with_files(config) == replace(
        config,
        enable_batching=True,
        batching=Options(max_batch_size=64, allowed_batch_sizes=(8, 64)),
        enable_per_model_batching_parameters=True,
        saved_model_tags="serve,gpu",
        enable_model_warmup=True,
        num_request_iterations_for_warmup=5,
        prefer_tflite_model=True,
        num_tflite_pools=2,
        num_tflite_interpreters_per_pool=1,
        tensorflow_intra_op_parallelism=3,
    )


def test_a_platform_file_overrides_the_flags(tmp_path: Path) -> None:
    config = with_files(
        Config(
            platform_config_file=platform(tmp_path, ""),
            tensorflow_session_config_file="/is/not/read",
            batching_parameters_file="/is/not/read",
            tensorflow_session_parallelism=4,
            tensorflow_intra_op_parallelism=5,
            num_request_iterations_for_warmup=6,
        )
    )

    assert not config.enable_batching
    assert not config.enable_model_warmup
    assert config.batching_parameters_file == ""
    assert config.num_request_iterations_for_warmup == 0
    assert {config.tensorflow_session_parallelism, config.tensorflow_intra_op_parallelism} == {0}


@pytest.mark.parametrize(
    ("flags", "threads"),
    [
        ({}, (2, 3)),
        ({"tensorflow_intra_op_parallelism": 7}, (7, 3)),
        ({"tensorflow_inter_op_parallelism": 7}, (2, 7)),
        ({"tensorflow_session_parallelism": 7}, (7, 7)),
        ({"tensorflow_session_parallelism": 7, "tensorflow_intra_op_parallelism": 5}, (5, 7)),
    ],
)
def test_flags_override_a_session_file(tmp_path: Path, flags: dict[str, int], threads: tuple[int, int]) -> None:
    text = "intra_op_parallelism_threads: 2 inter_op_parallelism_threads: 3 allow_soft_placement: true"
    config = with_files(Config(tensorflow_session_config_file=session(tmp_path, text), **flags))  # type: ignore[arg-type]

    assert (config.tensorflow_intra_op_parallelism, config.tensorflow_inter_op_parallelism) == threads
    assert config.tensorflow_session_parallelism == 0


def test_invalid_files(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert refusal(Config(platform_config_file=missing))[0] == Code.NOT_FOUND
    assert refusal(Config(tensorflow_session_config_file=missing))[0] == Code.NOT_FOUND

    broken = session(tmp_path, "intra_op_parallelism_threads: many")
    assert refusal(Config(tensorflow_session_config_file=broken))[1].startswith(f"Invalid protobuf file: '{broken}'")
    for text in ("platform_configs {", "platform_configs { key: 'tensorflow' value { source_adapter_config: 3 } }"):
        broken = session(tmp_path, text)
        assert refusal(Config(platform_config_file=broken))[1].startswith(f"Invalid protobuf file: '{broken}'")


def test_a_platform_file_without_the_platform_of_the_models(tmp_path: Path) -> None:
    file = platform(tmp_path, "", name="pytorch")

    assert refusal(Config(platform_config_file=file)) == (
        Code.INVALID_ARGUMENT,
        f"{file}: platform_configs must have an entry for tensorflow, the platform of every model",
    )


@pytest.mark.parametrize("kind", ["tensorflow.serving.SSLConfig", ""])
def test_a_platform_file_with_another_adapter(tmp_path: Path, kind: str) -> None:
    file = platform(tmp_path, "", kind=f"type.googleapis.com/{kind}")
    if not kind:
        Path(file).write_text("platform_configs { key: 'tensorflow' value { } }")

    assert refusal(Config(platform_config_file=file))[1] == (
        f"{file}: source_adapter_config must be a tensorflow.serving.SavedModelBundleSourceAdapterConfig; "
        f"was {kind or 'nothing'}"
    )


def test_a_platform_file_with_invalid_batching(tmp_path: Path) -> None:
    file = platform(tmp_path, "batching_parameters { num_batch_threads { value: 0 } }")

    assert refusal(Config(platform_config_file=file))[1] == f"{file}: num_batch_threads must be positive; was 0"
