"""Refuses files that contain a pickle unless the user trusts them, since loading one runs its author's code."""

from pathlib import Path

from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.sources.base import SourceOptions


def refuse_untrusted(file: Path, options: SourceOptions) -> None:
    """Refuses a pickle unless the user trusts it.

    Raises:
        ToolkitError: The user does not trust it; the text names the flag, and the formats that are not pickles.
    """
    if not options.trust_pickle:
        raise ToolkitError(
            f"{file}: this is a pickle, and loading it runs any code that its author put into it. If you trust it as a "
            "program of your own, add --trust_pickle; it is better to save the model as .skops (scikit-learn), as a "
            "state dict or .pt2 (PyTorch), or by save_model (XGBoost, LightGBM)"
        )
