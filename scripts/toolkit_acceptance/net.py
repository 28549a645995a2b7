"""A convolutional network of digits in PyTorch, its training, and its files, as in a user's own file.

It must lie next to train.npz; `python net.py` writes the network in all of PyTorch's file formats.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
EPOCHS = 20


def cnn(channels: int = 32) -> Any:
    """Three convolutions and a linear layer, untrained."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(2 * channels), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(2 * channels), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * channels, 10),
    )  # fmt: skip


def trained() -> Any:
    """The network with its weights, which are trained once and stored."""
    file, net = HERE / "cnn_state_dict.pt", cnn()
    if not file.exists():
        _fit(net)
        torch.save(net.state_dict(), file)
    net.load_state_dict(torch.load(file, weights_only=True))
    return net.eval()


def small() -> Any:
    """A student network with 1,810 weights."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def _fit(net: Any) -> None:
    torch.manual_seed(0)
    held = np.load(HERE / "train.npz")
    x, y = torch.from_numpy(held["x"]), torch.from_numpy(held["y"])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net.train()
    for _ in range(EPOCHS):
        for which in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[which]), y[which]).backward()
            optimizer.step()


def _write_all() -> None:
    net, x = trained(), torch.zeros(2, 1, 8, 8)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, HERE / "cnn.pt2")
    torch.jit.save(torch.jit.trace(net, x), HERE / "cnn_torchscript.pt")


if __name__ == "__main__":
    _write_all()
