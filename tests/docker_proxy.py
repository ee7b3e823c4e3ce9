"""A Unix socket in front of the Docker engine's, which can be cut: for its clients the engine is gone then."""

from __future__ import annotations

import contextlib
import socket
import threading


class DockerProxy:
    """Hands bytes on in both directions until `cut`, and refuses connections from then on."""

    def __init__(self, path, engine="/var/run/docker.sock"):
        self.url = f"unix://{path}"
        self.served = 0
        self._engine = engine
        self._path = path
        self._open = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self):
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._path.unlink(missing_ok=True)
        for thread in self._threads:
            thread.join(10)
        for one in (self._listener, *self._open):
            one.close()

    def _accept(self):
        with contextlib.suppress(OSError):  # cut
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._engine)
                self.served += 1
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._hand_on, args=(source, target), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    @staticmethod
    def _hand_on(source, target):
        with contextlib.suppress(OSError):  # closed by the other side
            while piece := source.recv(65536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
