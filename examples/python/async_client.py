"""Sends 100 images to the digits model at once; the server makes a few batches of them."""

import asyncio
import sys

import numpy as np

from headrace_client import AsyncClient, ServerError


async def main(address: str) -> None:
    """Sends random images and counts the digits that the model recognises."""
    images = np.random.default_rng(0).uniform(0, 16, (100, 1, 64)).astype(np.float32)
    async with AsyncClient(address, timeout=10) as client:
        answers = await asyncio.gather(*(client.predict("digits", {"image": image}) for image in images))
    labels = [int(answer["label"][0]) for answer in answers]
    print(f"{len(answers)} answers: {', '.join(f'{labels.count(digit)}x {digit}' for digit in sorted(set(labels)))}")


try:
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:8500"))
except ServerError as error:
    sys.exit(f"{error}")
