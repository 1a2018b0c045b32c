"""A client that costs next to nothing: streams completions, and counts what the server counted.

Run by `benchmarks.gpu.mix` as a process of its own. A line of JSON comes in with the port and the
bodies, a line `ready` goes out, any line starts all requests at once, and a line of JSON goes out
with an object for each: `started_s` and `ended_s` of `time.monotonic`, which all processes of a
machine share, `num_tokens` as the server's usage says, and an `error`, mostly empty.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any

TAIL_BYTES = 4096
_USAGE = re.compile(rb'"completion_tokens":\s*(\d+)')


async def ask(port: int, request: bytes) -> dict[str, Any]:
    """Make one request and read its stream to the end."""
    answer: dict[str, Any] = {"started_s": time.monotonic(), "num_tokens": 0, "error": ""}
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        head = tail = await reader.readuntil(b"\r\n\r\n")
        while part := await reader.read(65536):
            tail = (tail + part)[-TAIL_BYTES:]
        writer.close()
        counts = _USAGE.findall(tail)
        if b" 200 " in head.partition(b"\r\n")[0] and b"[DONE]" in tail and counts:
            answer["num_tokens"] = int(counts[-1])
        else:
            answer["error"] = tail[-300:].decode(errors="replace")
    except (OSError, asyncio.IncompleteReadError) as error:
        answer["error"] = repr(error)
    answer["ended_s"] = time.monotonic()
    return answer


def encode(port: int, body: dict[str, Any]) -> bytes:
    """Return a request after whose answer the server closes the connection."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode() + content


async def ask_all(port: int, requests: list[bytes]) -> list[dict[str, Any]]:
    """Make all requests at once."""
    return await asyncio.gather(*(ask(port, request) for request in requests))


def main() -> None:
    """Serve one round."""
    order = json.loads(sys.stdin.readline())
    requests = [encode(order["port"], body) for body in order["bodies"]]
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asyncio.run(ask_all(order["port"], requests))), flush=True)


if __name__ == "__main__":
    main()
