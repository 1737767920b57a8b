"""A proxy that does something else with the first connections."""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import suppress
from typing import Literal

Fate = Literal["refuse", "lose the answer", "say nothing"] | bytes
"""What becomes of a connection. Bytes are the answer, in place of the server's."""


class Proxy:
    """Stands before a server. The first connections get `fates`, all others what the server answers."""

    def __init__(self, port: int, *fates: Fate) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self._port = port
        self._fates = list(fates)
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            fate = self._fates.pop(0) if self._fates else None
            self._sockets.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client, fate)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket, fate: Fate | None) -> None:
        if fate == "refuse":
            client.close()
            return
        if isinstance(fate, bytes):
            self.requests.append(_request(client))
            client.sendall(fate)
            client.close()
            return
        if fate == "say nothing":
            # Until the client gives up.
            while client.recv(65536):
                pass
            return

        server = socket.create_connection(("127.0.0.1", self._port))
        self._sockets.append(server)
        while True:
            request = _request(client)
            if not request:
                server.close()
                return
            self.requests.append(request)
            server.sendall(request)
            answer = _request(server)
            if fate == "lose the answer":
                # The server has done what it was asked. Only the client does not learn of it.
                client.close()
                server.close()
                return
            client.sendall(answer)

    def expect(self, connections: int) -> None:
        """Waits for this many connections, of which a client may have given up the last before it is accepted."""
        deadline = time.monotonic() + 60
        while self.connections < connections:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert self.connections == connections

    def close(self) -> None:
        # close alone does not wake a thread that waits for a connection.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for each in self._sockets:
            with suppress(OSError):  # it may have ended already
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads[1:]:
            thread.join()


def _request(peer: socket.socket) -> bytes:
    """One message of HTTP, whose body has a length. Nothing: the peer has ended."""
    message = b""
    while True:
        head, found, body = message.partition(b"\r\n\r\n")
        if found:
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            if len(body) >= int(length[1] if length else 0):
                return message
        try:
            more = peer.recv(65536)
        except OSError:
            return b""
        if not more:
            return b""
        message += more
