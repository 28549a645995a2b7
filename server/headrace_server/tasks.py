"""Ends asyncio tasks that nobody waits for anymore."""

import asyncio
from collections.abc import Collection
from typing import Any


async def end_all(tasks: "Collection[asyncio.Future[Any]]") -> None:
    """Cancels tasks, and returns when all of them have ended; their results and errors are dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
