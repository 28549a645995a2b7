"""Whether a signature's declared shapes allow for a batch; a test decides whether there is one."""

from collections.abc import Mapping

from headrace_server.backends.signature import Signature, TensorSpec


def may_be_batched(inputs: Mapping[str, TensorSpec]) -> bool:
    """Whether the first dimension of every input varies.

    Outputs are not considered, since exporters declare them wrongly: LightGBM's converter declares `label` as [1].
    """
    return bool(inputs) and all(spec.shape and spec.shape[0] is None for spec in inputs.values())


def declares_rows(signature: Signature) -> bool:
    """Whether the first dimension of every input and every output varies."""
    outputs = signature.outputs.values()
    return signature.batched and all(spec.shape and spec.shape[0] is None for spec in outputs)
