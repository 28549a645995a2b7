"""Waits, in an event loop, until there is something to read."""

import asyncio


async def readable(descriptor: int) -> None:
    """Returns when there is something to read, or the other side has closed the connection."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _resolve(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
