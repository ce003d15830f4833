"""Simulates a network between client and server on one machine: a relay that delays each request."""

import asyncio
import contextlib
import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from urllib.parse import urlsplit


@contextlib.contextmanager
def distant(endpoint: str, latency: float) -> Iterator[str]:
    """Yields another URL for a server on this machine, through which each request takes longer.

    Args:
        endpoint: URL of the server.
        latency: seconds from the start of a request until the server receives it.
    """
    url = urlsplit(endpoint)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(url.hostname, url.port, latency, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(host: str, port: int, latency: float, ready: Connection) -> None:
    async def relay(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(host, port)
        answered = True  # the next data from the client starts a request

        async def requests() -> None:
            nonlocal answered
            while data := await client.read(1 << 18):
                if answered:
                    answered = False
                    await asyncio.sleep(latency)
                to_server.write(data)
                await to_server.drain()

        async def answers() -> None:
            nonlocal answered
            while data := await server.read(1 << 18):
                answered = True
                to_client.write(data)
                await to_client.drain()

        with contextlib.suppress(ConnectionError):
            await asyncio.wait(
                [asyncio.create_task(requests()), asyncio.create_task(answers())],
                return_when=asyncio.FIRST_COMPLETED,
            )
        to_client.close()
        to_server.close()

    async def main() -> None:
        listening = await asyncio.start_server(relay, "127.0.0.1", 0)
        ready.send(listening.sockets[0].getsockname()[1])
        await listening.serve_forever()

    asyncio.run(main())
