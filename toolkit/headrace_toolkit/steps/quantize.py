"""8-bit integers: static with calibration for convolutions, dynamic for matrix products."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace_toolkit.data import Data
from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.graph import MODEL_FILE, Facts, save
from headrace_toolkit.running import rows_at_once
from headrace_toolkit.steps.base import Advance, Made, Needs, Work
from headrace_toolkit.steps.calibration import Batches, outliers
from headrace_toolkit.steps.per_row import quantize_per_row
from headrace_toolkit.steps.quiet import quietly
from headrace_toolkit.tables import Table

METHODS = ("auto", "static", "dynamic")
CALIBRATIONS = ("percentile", "minmax")

SEVEN_BIT_TARGETS = ("x86",)
"""Without VNNI, pairs of products of bytes are summed in 16 bits, which may saturate; with 7-bit weights, never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize:
    """8-bit weights and activations.

    Attributes:
        method: `static` takes the ranges of activations from calibration rows, and `dynamic` from the rows of each run;
            `auto` is static for a model with convolutions and dynamic for others.
        calibrate: `percentile` cuts off outliers, and `minmax` does not.
        percentile: The percentage of the values that the range contains.
        per_channel: Whether each output channel of a weight has a scale of its own.
        per_row: Whether each row of a dynamic step has a scale of its own. With one scale for a whole batch, the
            default of ONNX Runtime's own dynamic quantization, a row's answer depends on the other rows.
        keep: Names of nodes that stay in float.
    """

    method: str = "auto"
    calibrate: str = "percentile"
    percentile: float = 99.9
    per_channel: bool = True
    per_row: bool = True
    keep: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The step's name in reports."""
        return self._named(self.method)

    def _named(self, method: str, bits: int | None = None) -> str:
        words = ["int8" if method == "auto" else f"{method} int8"]
        words += ["per row"] if method == "dynamic" and self.per_row else []
        words += ["per channel"] if self.per_channel else []
        words += [f"{bits} bit"] if bits else []
        words += ["minmax"] if method == "static" and self.calibrate == "minmax" else []
        words += [f"{len(self.keep)} nodes kept"] if self.keep else []
        return ", ".join(words)

    @property
    def needs(self) -> Needs:
        """Rows to calibrate on, unless the method is dynamic."""
        return Needs(rows=self.method != "dynamic")

    def run(self, work: Work) -> Made:
        """The quantized model.

        Raises:
            ToolkitError: The model is quantized already or has nothing to quantize, or calibration rows are missing.
        """
        facts = Facts.of(work.model)
        if facts.quantized:
            raise ToolkitError(f"{self.name}: the model is already quantized")
        if not facts.products + facts.convolutions:
            raise ToolkitError(f"{self.name}: the model has no Conv, MatMul or Gemm to quantize")
        self._check_kept(work)
        method = self.method if self.method != "auto" else ("static" if facts.convolutions else "dynamic")
        if method == "static":
            made = self._static(work, facts)
        else:
            made = self._dynamic_per_row(work) if self.per_row else self._dynamic(work)
        return replace(made, name=self._named(method, self._bits(work)))

    def _check_kept(self, work: Work) -> None:
        onnx = require("onnx", "quantization", "toolkit")
        names = {node.name for node in onnx.load(str(work.model), load_external_data=False).graph.node}
        for name in self.keep:
            if name not in names:
                raise ToolkitError(f"{self.name}: keep names the node {name}, which does not exist")

    def _bits(self, work: Work) -> int:
        return 7 if work.target in SEVEN_BIT_TARGETS else 8

    def _static(self, work: Work, facts: Facts) -> Made:
        quantization = require("onnxruntime.quantization", "quantization", "toolkit")
        if work.calibration is None:
            raise ToolkitError(f"{self.name}: there are no rows to calibrate on: give some with --data")
        ready, calibration = _prepared(work), work.calibration
        # Despite its name, this applies to all methods: it keeps only one batch in memory.
        options: dict[str, Any] = {"CalibStridedMinMax": 1}
        kind = quantization.CalibrationMethod.MinMax
        if self.calibrate == "percentile":
            kind = quantization.CalibrationMethod.Percentile
            options["CalibPercentile"] = self.percentile
        file = work.folder / MODEL_FILE

        def quantize(operators: list[str] | None) -> None:
            with quietly(self.name):
                quantization.quantize_static(
                    str(ready),
                    str(file),
                    _reader(calibration, work.model, work.advance),
                    quant_format=quantization.QuantFormat.QDQ,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                    per_channel=self.per_channel,
                    reduce_range=self._bits(work) == 7,
                    op_types_to_quantize=operators,
                    nodes_to_exclude=list(self.keep),
                    calibrate_method=kind,
                    extra_options=options,
                )

        try:
            quantize(["MatMul"] if facts.transformer else None)
        except ToolkitError:
            # ONNX Runtime's adjustment of weights fails for biases of two dimensions, which scikit-learn's perceptrons
            # have, and after operators of other domains, for which it cannot infer shapes.
            options["QDQDisableWeightAdjustForInt32Bias"] = True
            quantize(["Conv", "Gemm", "MatMul"])
        ready.unlink()
        return Made(model=file, notes=outliers(calibration))

    def _dynamic(self, work: Work) -> Made:
        """ONNX Runtime's own dynamic quantization, with one scale for all rows of a batch."""
        quantization = require("onnxruntime.quantization", "quantization", "toolkit")
        ready = _prepared(work)
        file = work.folder / MODEL_FILE
        with quietly(self.name):
            quantization.quantize_dynamic(
                str(ready),
                str(file),
                op_types_to_quantize=["MatMul", "Gemm", "Gather", "EmbedLayerNormalization", "Attention"],
                per_channel=self.per_channel,
                reduce_range=self._bits(work) == 7,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=list(self.keep),
            )
        ready.unlink()
        return Made(
            model=file, notes=("one scale for a whole batch: a row's answer depends on the other rows of its batch",)
        )

    def _dynamic_per_row(self, work: Work) -> Made:
        onnx = require("onnx", "quantization", "toolkit")
        with quietly(self.name):
            model = quantize_per_row(
                onnx.load(str(work.model)), bits=self._bits(work), keep=self.keep,
                per_channel=self.per_channel,
            )  # fmt: skip
        return Made(model=save(model, work.folder))


def _prepared(work: Work) -> Path:
    """The model with inferred shapes and a simplified graph, which ONNX Runtime's quantizer needs."""
    prepare = require("onnxruntime.quantization.shape_inference", "quantization", "toolkit").quant_pre_process
    require("sympy", "quantization", "toolkit")
    ready, model = (work.folder / "ready.onnx").absolute(), work.model.absolute()
    with contextlib.chdir(work.folder):  # if it cannot infer shapes, it leaves a copy of the model in its folder
        try:
            with quietly("preparing the quantization"):
                prepare(str(model), str(ready))
        except ToolkitError:  # symbolic shape inference supports no operators of other domains
            with quietly("preparing the quantization"):
                prepare(str(model), str(ready), skip_symbolic_shape=True)
    return ready


def _reader(data: Data, model: Path, advance: Advance) -> Any:
    """Calibration rows in the form for ONNX Runtime."""
    from headrace_toolkit.running import OnnxModel

    return Batches(data, rows_at_once(OnnxModel(model).signature), advance)


def build(table: Table) -> Quantize:
    """The step that a recipe's table describes.

    Raises:
        ToolkitError: A key has an invalid value.
    """
    if table.string("calibrate") == "entropy":
        raise table.wrong(
            "calibrate", f"must be one of {_listed(CALIBRATIONS)} (entropy is not offered: with ONNX Runtime's 128 "
            f"bins for as many quantized values it is the same as minmax)", "entropy",
        )  # fmt: skip
    return Quantize(
        method=table.choice("method", METHODS, "auto"),
        calibrate=table.choice("calibrate", CALIBRATIONS, "percentile"),
        percentile=table.number("percentile", 99.9, 50, 100),
        per_channel=table.boolean("per_channel", True),
        per_row=table.boolean("per_row", True),
        keep=table.strings("keep"),
    )


def _listed(choices: Sequence[str]) -> str:
    return ", ".join(choices)
