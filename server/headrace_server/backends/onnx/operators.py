"""Which of ONNX Runtime's operators have crashed the process on a request, and which never have.

An operator that does not check its inputs crashes the process: it divides by a zero that a caller has sent, or reads
past the end of an array. `make fuzz-models` sends odd requests to models of nearly every operator.
"""

from collections.abc import Mapping

FATAL_VALUES: Mapping[str, tuple[int, ...]] = {
    "ArrayFeatureExtractor": (1,),
    "Col2Im": (1, 2),
    "DFT": (1, 2),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Trilu": (1,),
}
"""Operators that have crashed on some values of an input (indices out of range, sizes of 0), and the numbers of these
inputs.

Tested with ONNX Runtime 1.32 and 1.20.
"""

CHECKS_MORE = (1, 32)
"""Mod and GatherND check their inputs in this version of ONNX Runtime, but not in 1.20, the only older one tested."""


def dividing(runtime: tuple[int, int]) -> frozenset[str]:
    """Operators that crash on some divisors if these are integers.

    The smallest integer divided by -1 is a number that the dtype cannot hold. Older runtimes also crash on 0.

    Args:
        runtime: ONNX Runtime's version.
    """
    return frozenset(("Div",)) if runtime >= CHECKS_MORE else frozenset(("Div", "Mod"))


GROWING: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1),
    "OneHot": (1,),
    "Pad": (1,),
    "Tile": (1,),
    "Upsample": (1,),
}
"""Operators with an output that may exceed the memory, and the numbers of the inputs whose values decide its size."""

LASTING: Mapping[str, tuple[int, ...]] = {"RoiAlign": (1,)}
"""Operators that can run for hours, and the numbers of the inputs whose values decide that.

A time limit does not end their run: ONNX Runtime ends runs only between operators. RoiAlign takes as many
samples as a box has pixels, unless its attribute `sampling_ratio` says how many.
"""

RUN_AT_ANY_RANK = frozenset(
    "Abs Add And Cast Ceil Clip Constant Cos Div Equal Erf Exp Floor Greater Identity IsNaN Less Log Max Min Mul Neg "
    "Not Or Pow Reciprocal Relu Reshape Round Shape Sigmoid Sign Sin Size Sqrt Sub Sum Tanh Where Xor".split()
)
"""Operators that run on arrays of any rank. Some of the others have crashed on an unexpected rank."""

_STANDARD = """
Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike CausalConvWithState
Ceil Celu CenterCropPad Clip Compress Concat ConcatFromSequence Constant ConstantOfShape Conv ConvInteger
ConvTranspose Cos Cosh CumProd CumSum DeformConv DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear
Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish
Hardmax Identity If ImageDecoder InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less
LessOrEqual LinearAttention Log LogSoftmax Loop LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxUnpool Mean
MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Neg NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not
OneHot Optional OptionalGetElement OptionalHasElement Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear
RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Reciprocal ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare RegexFullMatch Relu
Reshape ReverseSequence RoiAlign RotaryEmbedding Round Scan Scatter ScatterElements ScatterND Selu SequenceAt
SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size
Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze StringConcat
StringNormalizer StringSplit Sub Sum SwiGLU Swish Tan Tanh TensorScatter TfIdfVectorizer ThresholdedRelu Tile TopK
Transpose Unique Unsqueeze Upsample Where Xor
"""
_ML = """
ArrayFeatureExtractor Binarizer Imputer LabelEncoder LinearClassifier LinearRegressor Normalizer OneHotEncoder
SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
"""
_MICROSOFT = """
Attention BiasGelu DynamicQuantizeMatMul FastGelu FusedMatMul MultiHeadAttention QuickGelu SkipLayerNormalization
"""
_DOMAINS = {"ai.onnx.ml": _ML, "com.microsoft": _MICROSOFT}

TRIED = frozenset(
    (
        *_STANDARD.split(),
        *FATAL_VALUES,
        *(f"{domain}.{name}" for domain in _DOMAINS for name in _DOMAINS[domain].split()),
    )
)
"""Operators that have been sent odd requests; the names of those outside ONNX's own domain begin with the domain."""
