"""Whether a signature's declared shapes leave room for a batch; whether there is one is for a trial to say."""

from collections.abc import Mapping

from headrace_server.backends.signature import Signature, TensorSpec


def may_be_batched(inputs: Mapping[str, TensorSpec]) -> bool:
    """Whether the first dimension of every input varies.

    Outputs are not asked: exporters declare them wrong, as LightGBM's converter does its `label` as [1].
    """
    return bool(inputs) and all(spec.shape and spec.shape[0] is None for spec in inputs.values())


def declares_rows(signature: Signature) -> bool:
    """Whether the first dimension of every input varies, and that of every output, too."""
    outputs = signature.outputs.values()
    return signature.batched and all(spec.shape and spec.shape[0] is None for spec in outputs)
