"""A WebSocket echo, as the manual of `websockets` starts it. The first message names the generation."""

import asyncio
import os

import websockets


async def echo(socket):
    await socket.send("gen" + os.environ["PSFLIP_GENERATION"])
    async for message in socket:
        await socket.send(message)


async def main():
    async with websockets.serve(echo, "127.0.0.1", int(os.environ["PORT"])):
        await asyncio.Future()


asyncio.run(main())
