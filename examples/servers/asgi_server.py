"""uvicorn for uvicorn-shared.toml, extended to stop without losing a request.

On SIGTERM, uvicorn itself closes every connection on which it is not just answering, even one with a request that it has not read
yet.
"""

import asyncio

import uvicorn

# How long an idle keep-alive connection stays open after SIGTERM, in seconds.
KEEP_IDLE = 5


class Server(uvicorn.Server):
    async def shutdown(self, sockets=None):
        for server in self.servers:
            server.close()  # stops accepting; the next generation accepts what is in the shared queue
        # From now on every answer is the last one on its connection, and says so (Connection: close).
        headers = [*self.server_state.default_headers, (b"connection", b"close")]
        self.server_state.default_headers = headers
        for connection in self.server_state.connections:
            connection.default_headers = headers
        loop = asyncio.get_running_loop()
        end = loop.time() + KEEP_IDLE
        await asyncio.sleep(0.1)  # a connection that was just accepted is not in the list yet
        while self.server_state.connections and loop.time() < end:
            await asyncio.sleep(0.1)
        await super().shutdown(sockets)


if __name__ == "__main__":
    # Descriptor 3 is the first socket of [[listen]]. "on": if the startup of
    # the application fails, it does not serve ("auto" would ignore the failure).
    Server(uvicorn.Config("asgi_app:application", fd=3, lifespan="on", access_log=False)).run()
