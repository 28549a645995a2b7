"""Sends one image to the digits model with the blocking client."""

import sys

import numpy as np

from headrace_client import Client, ServerError

address = sys.argv[1] if len(sys.argv) > 1 else "localhost:8500"
image = np.zeros((8, 8), np.float32)
image[1:7, 3:5] = 16  # a stroke from top to bottom

with Client(address, timeout=10) as client:
    try:
        outputs = client.predict("digits", {"image": image.reshape(1, 64)}, outputs=["label", "probabilities"])
    except ServerError as error:
        sys.exit(f"{error}")
print(f"a {outputs['label'][0]}, {outputs['probabilities'][0].max():.0%} sure")
