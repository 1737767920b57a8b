# Needs the package websockets: pip install websockets
import asyncio
import json
import os

import websockets

server = os.environ.get("FANFARE_URL", "http://127.0.0.1:7070").replace("http", "ws", 1)


async def main():
    async with websockets.connect(f"{server}/v1/connect?channel=room-1", subprotocols=["fanfare.v1"]) as socket:
        await socket.send(json.dumps({"op": "send", "channel": "room-1", "event": "hello", "data": "hi"}))
        async for text in socket:
            message = json.loads(text) if isinstance(text, str) else {"op": "bytes"}
            if "event" in message:
                print(message["event"], message["data"], flush=True)


asyncio.run(main())
