"""The messages of the wire protocols, in a descriptor pool of their own, apart from TensorFlow's messages."""

from headrace_protos.pool import POOL
from headrace_protos.tensorflow.core.example.example_pb2 import Example, SequenceExample
from headrace_protos.tensorflow.core.example.feature_pb2 import (
    BytesList,
    Feature,
    FeatureList,
    FeatureLists,
    Features,
    FloatList,
    Int64List,
)
from headrace_protos.tensorflow.core.framework.tensor_pb2 import TensorProto
from headrace_protos.tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
from headrace_protos.tensorflow.core.framework.types_pb2 import DataType
from headrace_protos.tensorflow.core.protobuf.config_pb2 import ConfigProto
from headrace_protos.tensorflow.core.protobuf.error_codes_pb2 import Code
from headrace_protos.tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from headrace_protos.tensorflow_serving.apis import model_service_pb2, prediction_service_pb2
from headrace_protos.tensorflow_serving.apis.classification_pb2 import (
    Class,
    ClassificationRequest,
    ClassificationResponse,
    ClassificationResult,
    Classifications,
)
from headrace_protos.tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from headrace_protos.tensorflow_serving.apis.get_model_status_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
)
from headrace_protos.tensorflow_serving.apis.inference_pb2 import (
    InferenceResult,
    InferenceTask,
    MultiInferenceRequest,
    MultiInferenceResponse,
)
from headrace_protos.tensorflow_serving.apis.input_pb2 import ExampleList, ExampleListWithContext, Input
from headrace_protos.tensorflow_serving.apis.logging_pb2 import LogMetadata
from headrace_protos.tensorflow_serving.apis.model_management_pb2 import (
    Metric,
    ReloadConfigRequest,
    ReloadConfigResponse,
)
from headrace_protos.tensorflow_serving.apis.model_pb2 import ModelSpec
from headrace_protos.tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse, PredictStreamedOptions
from headrace_protos.tensorflow_serving.apis.prediction_log_pb2 import (
    ClassifyLog,
    MultiInferenceLog,
    PredictionLog,
    PredictLog,
    PredictStreamedLog,
    RegressLog,
    SessionRunLog,
)
from headrace_protos.tensorflow_serving.apis.regression_pb2 import (
    Regression,
    RegressionRequest,
    RegressionResponse,
    RegressionResult,
)
from headrace_protos.tensorflow_serving.apis.status_pb2 import StatusProto
from headrace_protos.tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)
from headrace_protos.tensorflow_serving.config.log_collector_config_pb2 import LogCollectorConfig
from headrace_protos.tensorflow_serving.config.logging_config_pb2 import (
    LoggingConfig,
    PerTaskSamplingConfig,
    SamplingConfig,
)
from headrace_protos.tensorflow_serving.config.model_server_config_pb2 import (
    ModelConfig,
    ModelConfigList,
    ModelServerConfig,
    ModelType,
)
from headrace_protos.tensorflow_serving.config.monitoring_config_pb2 import MonitoringConfig, PrometheusConfig
from headrace_protos.tensorflow_serving.config.platform_config_pb2 import PlatformConfig, PlatformConfigMap
from headrace_protos.tensorflow_serving.config.ssl_config_pb2 import SSLConfig
from headrace_protos.tensorflow_serving.servables.tensorflow.saved_model_bundle_source_adapter_pb2 import (
    SavedModelBundleSourceAdapterConfig,
)
from headrace_protos.tensorflow_serving.servables.tensorflow.session_bundle_config_pb2 import (
    BatchingParameters,
    ModelWarmupOptions,
    SessionBundleConfig,
)

__all__ = [
    "POOL",
    "BatchingParameters",
    "BytesList",
    "Class",
    "ClassificationRequest",
    "ClassificationResponse",
    "ClassificationResult",
    "Classifications",
    "ClassifyLog",
    "Code",
    "ConfigProto",
    "DataType",
    "Example",
    "ExampleList",
    "ExampleListWithContext",
    "Feature",
    "FeatureList",
    "FeatureLists",
    "Features",
    "FileSystemStoragePathSourceConfig",
    "FloatList",
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "InferenceResult",
    "InferenceTask",
    "Input",
    "Int64List",
    "LogCollectorConfig",
    "LogMetadata",
    "LoggingConfig",
    "Metric",
    "ModelConfig",
    "ModelConfigList",
    "ModelServerConfig",
    "ModelSpec",
    "ModelType",
    "ModelVersionStatus",
    "ModelWarmupOptions",
    "MonitoringConfig",
    "MultiInferenceLog",
    "MultiInferenceRequest",
    "MultiInferenceResponse",
    "PerTaskSamplingConfig",
    "PlatformConfig",
    "PlatformConfigMap",
    "PredictLog",
    "PredictRequest",
    "PredictResponse",
    "PredictStreamedLog",
    "PredictStreamedOptions",
    "PredictionLog",
    "PrometheusConfig",
    "RegressLog",
    "Regression",
    "RegressionRequest",
    "RegressionResponse",
    "RegressionResult",
    "ReloadConfigRequest",
    "ReloadConfigResponse",
    "SSLConfig",
    "SamplingConfig",
    "SavedModelBundleSourceAdapterConfig",
    "SequenceExample",
    "SessionBundleConfig",
    "SessionRunLog",
    "SignatureDef",
    "SignatureDefMap",
    "StatusProto",
    "TensorInfo",
    "TensorProto",
    "TensorShapeProto",
    "model_service_pb2",
    "prediction_service_pb2",
]

for _enum in (DataType, Code):
    # Otherwise, protobuf searches for a name at each use, which takes microseconds.
    for _name, _number in _enum.items():
        setattr(_enum, _name, _number)
