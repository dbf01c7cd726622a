"""A TCP proxy that can cut or stop the answers of the server behind it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class Wire:
    """Passes `budget` bytes from the server, over all connections together; then cuts the connection, or stops it.

    `hold` means stop. A budget of None passes everything. `stopped` is set when the budget is used up.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.budget: int | None = None
        self.hold = False
        self.stopped = threading.Event()
        self._release = threading.Event()
        self._lock = threading.Lock()
        self._severed = False
        self._ends: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._release.set()
        self._listener.close()

    def cut_after(self, budget: int, hold: bool = False) -> None:
        self.budget, self.hold = budget, hold
        self.stopped.clear()

    def sever(self) -> None:
        """Cut every connection, including new ones, until `mend` is called."""
        with self._lock:
            self._severed = True
            ends, self._ends = self._ends, set()
        _shut(*ends)

    def mend(self) -> None:
        self.budget = None
        self._severed = False
        self._release.set()
        self._release = threading.Event()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._target)) as server:
            with self._lock:
                if self._severed:
                    return
                self._ends |= {client, server}
            up = threading.Thread(target=self._pump, args=(client, server), daemon=True)
            up.start()
            try:
                while (piece := server.recv(65_536)) and self._spend(len(piece)):
                    client.sendall(piece)
            finally:
                with self._lock:
                    self._ends -= {client, server}
                _shut(client, server)
                up.join()

    @staticmethod
    def _pump(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(65_536):
                server.sendall(piece)
            server.shutdown(socket.SHUT_WR)

    def _spend(self, count: int) -> bool:
        with self._lock:
            if self.budget is None:
                return True
            self.budget -= count
            if self.budget > 0:
                return True
            release = self._release
            if not self.hold:
                self.budget = None  # cut once
        self.stopped.set()
        if self.hold:
            release.wait(60)
        return False


def _shut(*ends: socket.socket) -> None:
    """Shut the sockets down. Closing alone would not wake threads that read from them."""
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
