"""What ONNX Runtime's operators bear: which of them have ended the process on a request, and which never have.

An operator that does not check its inputs ends the process: it divides by a zero that a caller has sent, or reads past
an array's end. `make fuzz-models` sends odd requests to models of nearly every operator.
"""

from collections.abc import Mapping

FATAL_VALUES: Mapping[str, tuple[int, ...]] = {"Range": (0, 1, 2), "STFT": (1, 3)}
"""Operators that have ended it on some values, and of which inputs, by number: huge steps, frames of no length."""

FATAL_RANKS = frozenset(("DFT", "ReverseSequence"))
"""Operators that have ended it on arrays of another rank than they want."""

_STANDARD = """
Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization Bernoulli
BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike CausalConvWithState Ceil Celu
CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos
Cosh CumProd CumSum DeformConv DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal
Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool
Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
ImageDecoder InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual LinearAttention
Log LogSoftmax Loop LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxUnpool Mean MeanVarianceNormalization
MelWeightMatrix Min Mish Mod Mul Neg NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Optional
OptionalGetElement OptionalHasElement Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN
RandomUniformLike Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare RegexFullMatch Relu Reshape Resize RoiAlign RotaryEmbedding Round Scan Scatter
ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength
Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split
SplitToSequence Sqrt Squeeze StringConcat StringNormalizer StringSplit Sub Sum SwiGLU Swish Tan Tanh TensorScatter
TfIdfVectorizer ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""
_ML = "ArrayFeatureExtractor Binarizer LabelEncoder TreeEnsemble"

TRIED = frozenset((*_STANDARD.split(), *FATAL_VALUES, *FATAL_RANKS, *(f"ai.onnx.ml.{name}" for name in _ML.split())))
"""Operators that have been sent odd requests, those of other domains than ONNX's own behind the domain's name."""
