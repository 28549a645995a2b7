"""Models for odd requests: ONNX's own cases, unchanged and with wider declarations, and others of many kinds."""

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, TensorProto
from onnx.helper import make_node

from headrace_batching.task import Arrays
from tests.support import onnx_cases
from tests.support.fatal_models import FATAL, MICROSOFT
from tests.support.graphs import FLOAT, Dims, Graph, weights

INT32, UINT8 = TensorProto.INT32, TensorProto.UINT8


@dataclass(frozen=True)
class OddModel:
    """A model.

    Attributes:
        name: A unique name.
        model: The model.
        usual: A normal request; None to generate one.
    """

    name: str
    model: ModelProto
    usual: Arrays | None = None

    def write(self, base_path: Path) -> None:
        """Writes the model as version 1."""
        folder = base_path / self.name / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(self.model.SerializeToString())


class Pool(NamedTuple):
    """Models to choose from.

    Attributes:
        fatal: Models that are always chosen: some requests crash their process.
        others: Models of many kinds.
        cases: ONNX's own cases.
    """

    fatal: Sequence[OddModel]
    others: Sequence[OddModel]
    cases: Sequence[OddModel]

    def some(self, count: int, chance: random.Random) -> list[OddModel]:
        """Chooses this many models, about half of them ONNX's cases."""
        others = chance.sample(self.others, min(len(self.others), (count - len(self.fatal)) // 2))
        cases = chance.sample(self.cases, count - len(self.fatal) - len(others))
        return [*self.fatal, *others, *cases]


def every_model(*, nodes: bool) -> Pool:
    """All models.

    Args:
        nodes: Whether to include ONNX's case for each operator, which takes half a minute to generate.
    """
    cases = [OddModel(name, model, inputs) for name, model, inputs in onnx_cases.made(nodes=nodes)]
    fatal = [OddModel(folder_name(name), fatal.graph.model(), fatal.fine) for name, fatal in FATAL.items()]
    made = [OddModel(name, graph.model()) for name, graph in _of_microsoft().items()]
    widened = [widen(case) for widen in (any_sizes, any_rank) for case in cases]
    return Pool(fatal, [*made, *trained(), *found()], [*cases, *widened])


def any_sizes(case: OddModel) -> OddModel:
    """The same model, with inputs declared with any sizes."""

    def widen(value: Any) -> None:
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            dimension.dim_param = f"{value.name}_{axis}"

    return _widened(case, "any_sizes", widen)


def any_rank(case: OddModel) -> OddModel:
    """The same model, with inputs declared with any rank."""
    return _widened(case, "any_rank", lambda value: value.type.tensor_type.ClearField("shape"))


def _widened(case: OddModel, how: str, widen: Callable[[Any], None]) -> OddModel:
    model = ModelProto()
    model.CopyFrom(case.model)
    constants = {constant.name for constant in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in constants and value.type.HasField("tensor_type"):
            widen(value)
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return OddModel(f"{case.name}_{how}", model, case.usual)


def _of_microsoft() -> Mapping[str, Graph]:
    """Operators that ONNX Runtime's optimizers insert."""

    def graph(operator: str, inputs: Mapping[str, Dims], constants: Sequence[Any] = (), **attributes: Any) -> Graph:
        named = {f"c{number}": constant for number, constant in enumerate(constants)}
        node = make_node(operator, [*inputs, *named], ["y"], domain=MICROSOFT, **attributes)
        sent = {name: (FLOAT, dims) for name, dims in inputs.items()}
        return Graph([node], sent, {"y": (FLOAT, None)}, named, [(MICROSOFT, 1)])

    wide: Dims = ("N", "T", 8)
    zeros = np.zeros(24, np.float32)
    quantized = [np.ones((4, 3), np.uint8), np.ones(1, np.float32)]
    return {
        "Attention": graph("Attention", {"x": wide}, [weights(8, 24), zeros], num_heads=2),
        "BiasGelu": graph("BiasGelu", {"x": ("N", 4)}, [weights(4)]),
        "DynamicQuantizeMatMul": graph("DynamicQuantizeMatMul", {"x": ("N", 4)}, quantized),
        "FastGelu": graph("FastGelu", {"x": ("N", 4)}, [weights(4)]),
        "FusedMatMul": graph("FusedMatMul", {"a": ("M", "K"), "b": ("K", "N")}),
        "MultiHeadAttention": graph("MultiHeadAttention", {"q": wide, "k": wide, "v": wide}, num_heads=2),
        "QuickGelu": graph("QuickGelu", {"x": ("N", 4)}),
        "SkipLayerNormalization": graph("SkipLayerNormalization", {"x": wide, "s": wide}, [weights(8), weights(8)]),
    }


def trained() -> Iterator[OddModel]:
    """Models of scikit-learn, with operators of ai.onnx.ml."""
    from skl2onnx import to_onnx
    from sklearn.decomposition import PCA
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Binarizer, MinMaxScaler, Normalizer, OneHotEncoder, StandardScaler
    from sklearn.svm import SVR

    x = np.random.default_rng(7).standard_normal((60, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    for estimator in (
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(SimpleImputer(), Normalizer(), RandomForestClassifier(n_estimators=3)),
        make_pipeline(MinMaxScaler(), Binarizer(), GradientBoostingRegressor(n_estimators=3)),
        make_pipeline(PCA(2), KNeighborsClassifier(3)),
        SVR(),
    ):
        fitted = estimator.fit(x, y)
        name = "_".join(step for step, _ in fitted.steps) if hasattr(fitted, "steps") else type(fitted).__name__
        yield OddModel(name, to_onnx(fitted, x[:1], options={"zipmap": False} if hasattr(fitted, "classes_") else None))
    words = np.array([["a"], ["b"], ["c"]], object)
    yield OddModel("OneHotEncoder", to_onnx(OneHotEncoder(handle_unknown="ignore").fit(words), words[:1]))


def found() -> Iterator[OddModel]:
    """The models in the folder HEADRACE_FUZZ_MODELS."""
    folder = os.environ.get("HEADRACE_FUZZ_MODELS")
    for file in sorted(Path(folder).rglob("*.onnx")) if folder else ():
        yield OddModel(folder_name(str(file.relative_to(folder or "").with_suffix(""))), onnx.load(file))


def folder_name(text: str) -> str:
    """A text, made into a model's name."""
    return "".join(letter if letter.isalnum() else "_" for letter in text)
