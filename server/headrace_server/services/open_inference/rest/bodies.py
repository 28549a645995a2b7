"""The body of a call over HTTP, decompressed."""

import asyncio
import os

from headrace_server.errors import unimplemented
from headrace_server.processes import memory_file
from headrace_server.services.http import Body, HttpRequest
from headrace_server.services.open_inference.rest.compression import inflate, is_known


async def received(request: HttpRequest) -> memoryview:
    """The whole body; a large one is mapped, not read.

    Raises:
        ServingError: UNIMPLEMENTED if the declared encoding is not supported; INVALID_ARGUMENT if the body is not in
            that encoding.
    """
    encoding = request.header("content-encoding")
    if not is_known(encoding):
        raise unimplemented("Unsupported compression type")
    data = _contents(request.body)
    if encoding in ("", "identity"):
        return data
    return memoryview(await asyncio.to_thread(inflate, data, encoding))


def _contents(body: Body) -> memoryview:
    if body.data is not None:
        return memoryview(body.data)
    file = body.detach()
    try:
        return memory_file.contents(file)
    finally:
        os.close(file)
