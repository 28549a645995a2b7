"""An operator's settings for ONNX Runtime: flags for all models, `[onnxruntime]` in `model.toml` for one."""

from dataclasses import dataclass

from headrace_server.config.flag import flag


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxruntimeOptions:
    """How ONNX Runtime runs a model. The fields are also keys of `[onnxruntime]` in a model's `model.toml`."""

    providers: tuple[str, ...] = flag(
        ("auto",),
        "ONNX Runtime's execution providers, separated by commas, the preferred one first; auto takes the best one",
        fits=bool,
        words="a list of at least one string",
    )
    cpu_memory_arena: bool = flag(True, "let ONNX Runtime keep memory for later runs instead of freeing it after each")
    device_id: int = flag(0, "number of the GPU that ONNX Runtime's CUDA and TensorRT providers use", least=0)
    gpu_memory_limit_mb: int = flag(
        0,
        "MB of GPU memory that a model may use in the CUDA provider's arena or TensorRT's workspace; 0 means no limit",
        least=0,
    )
    gpu_arena_strategy: str = flag(
        "next_power_of_two",
        "how the CUDA provider's arena grows: next_power_of_two, or same_as_requested, which is slower but uses less "
        "memory",
        choices=("next_power_of_two", "same_as_requested"),
    )
    gpu_instances: int = flag(2, "batches of a model that run on its GPU at the same time", least=1)
    gpu_prefer_nhwc: bool = flag(False, "let the CUDA provider compute convolutions with the channels last")
    gpu_convolution_search: str = flag(
        "heuristic",
        "how the CUDA provider finds an algorithm for a convolution: heuristic, or exhaustive, which tries all of them",
        choices=("heuristic", "exhaustive"),
    )
    gpu_tf32: bool = flag(
        True, "let the CUDA provider round the factors of float32 products to TF32, as TensorFlow does"
    )
    tensorrt_fp16: bool = flag(False, "let the TensorRT provider compute in half precision")
    tensorrt_int8: bool = flag(
        False, "let the TensorRT provider compute in 8 bits, in models that contain QuantizeLinear and DequantizeLinear"
    )
    tensorrt_engine_cache: str = flag(
        "",
        "folder in which the TensorRT provider keeps its engines; if given, the automatic choice of providers (auto) "
        "considers this one too",
    )
    tensorrt_timing_cache: str = flag(
        "", "folder in which the TensorRT provider keeps the timings it measured in builds"
    )
    custom_op_libraries: tuple[str, ...] = flag(
        (),
        "shared libraries of custom operators, separated by commas; they are code that runs in the server",
    )
