"""Trains a convolutional network on handwritten digits. Run as a program, it saves the weights and the test rows."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).parent
TRAINING_ROWS = 1257
EPOCHS = 20


class Digits(nn.Module):
    """Maps images of digits, float32 [n, 64] of values from 0 to 16, to a label and ten probabilities for each."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the outputs by name; the name of the argument is the name of the input."""
        scores = self.scores(image.reshape(-1, 1, 8, 8) / 16)
        return {"label": scores.argmax(1), "probabilities": scores.softmax(1)}


def trained() -> nn.Module:
    """The trained network; `headrace convert net.py:trained` calls this."""
    net = Digits()
    net.load_state_dict(torch.load(HERE / "weights.pt", weights_only=True))
    return net.eval()


def train(images: torch.Tensor, digits: torch.Tensor) -> nn.Module:
    """Returns a network that was trained on the images for some epochs."""
    torch.manual_seed(0)
    net = Digits()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            scores = net.scores(images[rows].reshape(-1, 1, 8, 8) / 16)
            nn.functional.cross_entropy(scores, digits[rows]).backward()
            optimizer.step()
    return net


if __name__ == "__main__":
    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    pixels, digits = pixels[order].astype(np.float32), digits[order]
    net = train(torch.from_numpy(pixels[:TRAINING_ROWS]), torch.from_numpy(digits[:TRAINING_ROWS]))
    torch.save(net.state_dict(), HERE / "weights.pt")
    np.savez(HERE / "test.npz", image=pixels[TRAINING_ROWS:], label=digits[TRAINING_ROWS:])
