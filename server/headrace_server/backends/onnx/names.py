"""Names that ONNX Runtime and ONNX files use."""

from headrace_protos import DataType

CPU = "CPUExecutionProvider"

METADATA_KEY = "headrace.signatures"
"""The key of the model's own metadata that holds a JSON object like the `signatures` tables of `model.toml`."""

TYPE_NAMES: dict[str, DataType] = {
    "tensor(float)": DataType.DT_FLOAT,
    "tensor(double)": DataType.DT_DOUBLE,
    "tensor(float16)": DataType.DT_HALF,
    "tensor(bfloat16)": DataType.DT_BFLOAT16,
    "tensor(int8)": DataType.DT_INT8,
    "tensor(int16)": DataType.DT_INT16,
    "tensor(int32)": DataType.DT_INT32,
    "tensor(int64)": DataType.DT_INT64,
    "tensor(uint8)": DataType.DT_UINT8,
    "tensor(uint16)": DataType.DT_UINT16,
    "tensor(uint32)": DataType.DT_UINT32,
    "tensor(uint64)": DataType.DT_UINT64,
    "tensor(bool)": DataType.DT_BOOL,
    "tensor(string)": DataType.DT_STRING,
}
"""The dtype for each of ONNX Runtime's names of tensor types."""
