"""uvicorn for uvicorn.toml, made to end without losing a request.

As it is, uvicorn closes a connection on which it is not just answering as soon as it gets SIGTERM, with a request in it that it has
not read yet.
"""

import asyncio

import uvicorn

# How long a client that keeps its connection may be idle and still gets an answer, in seconds.
KEEP_IDLE = 5


class Server(uvicorn.Server):
    async def shutdown(self, sockets=None):
        for server in self.servers:
            server.close()  # accepts no more; what is in the shared queue is the next generation's
        # From now on every answer is the last one on its connection, and says so.
        headers = [*self.server_state.default_headers, (b"connection", b"close")]
        self.server_state.default_headers = headers
        for connection in self.server_state.connections:
            connection.default_headers = headers
        loop = asyncio.get_running_loop()
        end = loop.time() + KEEP_IDLE
        await asyncio.sleep(0.1)  # what has just been accepted is not among the connections yet
        while self.server_state.connections and loop.time() < end:
            await asyncio.sleep(0.1)
        await super().shutdown(sockets)


if __name__ == "__main__":
    # Descriptor 3 is the first socket of [[listen]]. "on": an application whose startup fails does not serve ("auto" goes on without it).
    Server(uvicorn.Config("asgi_app:application", fd=3, lifespan="on", access_log=False)).run()
