"""`model.toml`: which options it sets and leaves unchanged, and the position in an error."""

from pathlib import Path

import pytest

from headrace_batching import Options
from headrace_protos import Code
from headrace_server.config.isolation import IsolationOptions
from headrace_server.config.model_toml import ModelOptions, SignatureOptions, read_model_options
from headrace_server.errors import ServingError


def options_in(base_path: Path, text: str) -> ModelOptions:
    (base_path / "model.toml").write_text(text)
    return read_model_options(base_path)


def failure_of(base_path: Path, text: str) -> tuple[Code, str]:
    with pytest.raises(ServingError) as raised:
        options_in(base_path, text)
    return raised.value.code, raised.value.message


def test_every_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "animals.txt").write_text("cat\ndög\n")
    text = """
    [onnxruntime]
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    intra_op_threads = 2
    inter_op_threads = 0
    cpu_memory_arena = false
    device_id = 1
    gpu_arena_strategy = "same_as_requested"
    tensorrt_fp16 = true
    tensorrt_engine_cache = "/engines"

    [tensorrt]
    devices = [0, 1]
    instances = 3
    cuda_graphs = true
    spin = true
    precision = "fp16"
    tf32 = false
    workspace_mb = 512
    optimization_level = 5
    opt_batch_size = 16
    dimensions = { W = [1, 64, 512], "x.2" = [8, 8, 8] }

    [batching]
    max_batch_size = 64
    allowed_batch_sizes = [8, 64]
    pad_variable_length_inputs = true

    [signatures.serving_default]
    inputs = { x = "input_0" }

    [signatures.animals]
    method = "classify"
    outputs = { scores = "probabilities" }
    labels = "animals.txt"
    """

    assert options_in(tmp_path, text) == ModelOptions(
        backend={"intra_op_threads": 2, "inter_op_threads": 0},
        onnxruntime={
            "providers": ("CUDAExecutionProvider", "CPUExecutionProvider"),
            "cpu_memory_arena": False,
            "device_id": 1,
            "gpu_arena_strategy": "same_as_requested",
            "tensorrt_fp16": True,
            "tensorrt_engine_cache": "/engines",
        },
        tensorrt={
            "enabled": True,
            "devices": (0, 1),
            "instances": 3,
            "cuda_graphs": True,
            "spin": True,
            "precision": "fp16",
            "tf32": False,
            "workspace_mb": 512,
            "optimization_level": 5,
            "opt_batch_size": 16,
            "dimensions": {"W": (1, 64, 512), "x.2": (8, 8, 8)},
        },
        batching={"max_batch_size": 64, "allowed_batch_sizes": (8, 64), "pad_variable_length_inputs": True},
        signatures={
            "serving_default": SignatureOptions(inputs={"x": "input_0"}),
            "animals": SignatureOptions(method="classify", outputs={"scores": "probabilities"}, labels=("cat", "dög")),
        },
    )


@pytest.mark.parametrize("text", [None, "", "# nothing", "[batching]", "[onnxruntime]\n[signatures]"])
def test_missing_keys_have_the_values_of_all_models(tmp_path: Path, text: str | None) -> None:
    options = read_model_options(tmp_path) if text is None else options_in(tmp_path, text)

    assert options == ModelOptions()
    assert options.batching_over(Options(max_batch_size=7)) == Options(max_batch_size=7)
    assert options.batching_over(None) is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[tensorrt]", {"enabled": True}),
        ("[tensorrt]\nenabled = false\ninstances = 1", {"enabled": False, "instances": 1}),
    ],
)
def test_a_table_for_tensorrt_turns_it_on(tmp_path: Path, text: str, values: dict[str, object]) -> None:
    assert options_in(tmp_path, text).tensorrt == values


def test_batching_overrides_that_of_all_models(tmp_path: Path) -> None:
    shared = Options(max_batch_size=32, batch_timeout_micros=5)

    assert options_in(tmp_path, "[batching]\nmax_batch_size = 8").batching_over(shared) == Options(
        max_batch_size=8, batch_timeout_micros=5
    )
    assert options_in(tmp_path, "[batching]\nenabled = true\nmax_batch_size = 8").batching_over(None) is None
    assert options_in(tmp_path, "[batching]\nenabled = false").batching_over(shared) is None


def test_isolation(tmp_path: Path) -> None:
    text = "[isolation]\nworkers = 2\nmemory_limit_mb = 512\nrun_timeout = 1.5"
    assert options_in(tmp_path, text).isolation == {"workers": 2, "memory_limit_mb": 512, "run_timeout": 1.5}
    code, reason = failure_of(tmp_path, "[isolation]\nworkers = 0\nmemory_limit_mb = 512")
    assert code == Code.INVALID_ARGUMENT
    assert reason.endswith("isolation.memory_limit_mb limits worker processes, but isolation.workers is 0")


@pytest.mark.parametrize(
    ("options", "python", "workers"),
    [
        ({}, True, 1),
        ({}, False, 0),
        ({"python_workers": 0}, True, 0),
        ({"workers": 0}, True, 0),
        ({"workers": 3}, False, 3),
        ({"memory_limit_mb": 1}, False, 1),
    ],
)
def test_models_with_worker_processes(options: dict[str, int], python: bool, workers: int) -> None:
    assert IsolationOptions(**options).workers_for(python=python) == workers


def test_labels_may_be_listed(tmp_path: Path) -> None:
    options = options_in(tmp_path, '[signatures.s]\nmethod = "classify"\nlabels = ["a", "b"]')

    assert options.signatures["s"].labels == ("a", "b")


class TestWrong:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("[onnxruntime", "Expected ']' at the end of a table declaration (at end of document)"),
            ("x = 1\ny = = 2", "Invalid value (at line 2, column 5)"),
            ("[batchign]", "batchign: unknown key; did you mean batching?"),
            ("[zzz]", "zzz: unknown key"),
            ("batching = 3", "batching must be a table; was 3"),
            ("signatures = []", "signatures must be a table; was []"),
            ("[tensorrt]\nprecison = 1", "tensorrt.precison: unknown key; did you mean precision?"),
            (
                '[tensorrt]\nprecision = "fp8"',
                "tensorrt.precision must be one of model, fp16, bf16, int8; was 'fp8'",
            ),
            (
                "[tensorrt]\noptimization_level = 6",
                "tensorrt.optimization_level must be a whole number from 0 to 5; was 6",
            ),
            ("[tensorrt]\ninstances = 0", "tensorrt.instances must be a whole number of at least 1; was 0"),
            (
                "[tensorrt]\ndevices = [1, 1]",
                "tensorrt.devices must be a list of one or more different whole numbers of at least 0; was [1, 1]",
            ),
            (
                "[tensorrt]\ndimensions = { W = [1, 2] }",
                "tensorrt.dimensions must be a table of ranges, each [least, usual, most] in "
                "increasing whole numbers; was {'W': [1, 2]}",
            ),
            (
                "[tensorrt]\ndimensions = { W = [3, 2, 4] }",
                "tensorrt.dimensions must be a table of ranges, each [least, usual, most] in "
                "increasing whole numbers; was {'W': [3, 2, 4]}",
            ),
            (
                "[onnxruntime]\nintra_op_thread = 2",
                "onnxruntime.intra_op_thread: unknown key; did you mean intra_op_threads?",
            ),
            (
                "[onnxruntime]\nintra_op_threads = -1",
                "onnxruntime.intra_op_threads must be a whole number of at least 0; was -1",
            ),
            (
                "[onnxruntime]\nintra_op_threads = true",
                "onnxruntime.intra_op_threads must be a whole number of at least 0; was True",
            ),
            ("[onnxruntime]\ncpu_memory_arena = 1", "onnxruntime.cpu_memory_arena must be true or false; was 1"),
            (
                "[onnxruntime]\nproviders = []",
                "onnxruntime.providers must be a list of at least one string; was []",
            ),
            ("[onnxruntime]\ndevice_id = -1", "onnxruntime.device_id must be a whole number of at least 0; was -1"),
            (
                '[onnxruntime]\ngpu_arena_strategy = "small"',
                "onnxruntime.gpu_arena_strategy must be one of next_power_of_two, same_as_requested; was 'small'",
            ),
            (
                "[onnxruntime]\ntensorrt_timing_cache = 1",
                "onnxruntime.tensorrt_timing_cache must be a string; was 1",
            ),
            ("[batching]\nnum_batch_threads = 2", "batching.num_batch_threads: unknown key"),
            (
                "[batching]\nallowed_batch_sizes = 8",
                "batching.allowed_batch_sizes must be a list of whole numbers of at least 1; was 8",
            ),
            (
                "[batching]\nmax_batch_size = 4\nallowed_batch_sizes = [8]",
                "batching: Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 4",
            ),
            (
                "[signatures.s]\nmethod = 'rank'",
                "signatures.s.method must be one of predict, classify, regress; was 'rank'",
            ),
            ("[signatures.s]\ninputs = { x = 1 }", "signatures.s.inputs must be a table of names; was {'x': 1}"),
            ("[signatures]\ns = 1", "signatures.s must be a table; was 1"),
            (
                "[signatures.s]\nlabels = ['a']",
                'signatures.s.labels: only a signature with method = "classify" has labels',
            ),
        ],
    )
    def test_the_text_names_the_file_and_the_key_or_the_line(self, tmp_path: Path, text: str, reason: str) -> None:
        code, message = failure_of(tmp_path, text)

        assert code == Code.INVALID_ARGUMENT
        assert message.startswith(f"{tmp_path / 'model.toml'}: {reason}")

    def test_a_missing_file_of_labels(self, tmp_path: Path) -> None:
        assert failure_of(tmp_path, '[signatures.s]\nmethod = "classify"\nlabels = "none.txt"') == (
            Code.NOT_FOUND,
            f"{tmp_path / 'none.txt'}: No such file or directory",
        )

    def test_a_folder_of_that_name(self, tmp_path: Path) -> None:
        (tmp_path / "model.toml").mkdir()
        with pytest.raises(ServingError, match=r"model\.toml: Is a directory"):
            read_model_options(tmp_path)

    def test_bytes_that_are_not_text(self, tmp_path: Path) -> None:
        (tmp_path / "model.toml").write_bytes(b"x = '\xff'")
        with pytest.raises(ServingError, match=r"model\.toml: 'utf-8' codec"):
            read_model_options(tmp_path)
