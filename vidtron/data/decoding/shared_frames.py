"""Memory that decoding processes write frames into and the training process reads them from, without a copy.

It is anonymous (memfd): it has no name that could outlive the processes, whatever kills them, and no limit but the
machine's memory (of /dev/shm, or docker's --shm-size, it takes nothing).

Shapes: T frames, C colours, H height, W width.
"""

import math
import mmap
import os
import pickle
import socket
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np

MOST_LENT = 64
"""Clips that a consumer may hold in shared memory; each holds two file descriptors open. Further ones are copied."""


class SharedFrames:
    """One piece of shared memory; it grows to the largest clip it has held."""

    def __init__(self) -> None:
        self.file = os.memfd_create("vidtron-frames")
        """File descriptor, for `Channel.send`."""
        self._mapping: mmap.mmap | None = None

    def make_room(self, size: int) -> None:
        """Have room for at least so many bytes from now on."""
        if self._mapping is None or len(self._mapping) < size:
            os.ftruncate(self.file, size)
            self._mapping = mmap.mmap(self.file, size, mmap.MAP_SHARED)

    def bytes(self, size: int) -> np.ndarray:
        """The first `size` of them, uint8 [size]."""
        assert self._mapping is not None
        return np.frombuffer(self._mapping, np.uint8, size)

    def close(self) -> None:
        """Let go of the file; the memory lives until its last array is gone."""
        os.close(self.file)
        self._mapping = None


class FramesPool:
    """Shared memory for clips, used again and again.

    There is as much of it as clips that are being decoded, wait, or are still held by the consumer; at most
    `keep` pieces stay for later clips.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._free: deque[SharedFrames] = deque()
        self._closed = False
        self._lent = 0
        self._lock = threading.RLock()  # garbage collection may give back while this thread takes

    def take(self, size: int) -> SharedFrames:
        """A piece of at least `size` bytes. Give it back, or `lend` it.

        Raises:
            OSError: there are no more file descriptors, or the system has no such memory.
        """
        with self._lock:
            piece = self._free.popleft() if self._free else SharedFrames()
        piece.make_room(size)
        return piece

    def lend(self, piece: SharedFrames, shape: tuple[int, ...]) -> np.ndarray:
        """The piece as uint8 of that shape; it comes back by itself when nothing refers to the array any more."""
        array = piece.bytes(math.prod(shape))
        with self._lock:
            self._lent += 1
            copied = self._lent > MOST_LENT
        weakref.finalize(array, self._take_back, piece).atexit = False
        return (array.copy() if copied else array).reshape(shape)

    def _take_back(self, piece: SharedFrames) -> None:
        with self._lock:
            self._lent -= 1
        self.give_back(piece)

    def give_back(self, piece: SharedFrames) -> None:
        """It may be used for another clip."""
        with self._lock:
            if not self._closed and len(self._free) < self._keep:
                self._free.append(piece)
                return
        piece.close()

    def close(self) -> None:
        """Let go of what is free; what is lent goes when it comes back."""
        with self._lock:
            self._closed = True
            while self._free:
                self._free.popleft().close()


class FrameWriter:
    """Puts frames [C, H, W] into a piece of shared memory, from any process."""

    def __init__(self, file: int, shape: tuple[int, ...]) -> None:
        """`file`: descriptor; `shape`: (T, C, H, W) of all frames."""
        self._file = file
        self._frame_bytes = math.prod(shape[1:])

    def __call__(self, place: int, image_CHW: np.ndarray) -> None:
        """Write one frame; its place in the clip."""
        view = np.ascontiguousarray(image_CHW).reshape(-1).data
        offset = place * self._frame_bytes
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written


class Channel:
    """Messages and file descriptors between two processes that trust each other, over a socket."""

    _LENGTH_BYTES = 8

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def send(self, message: Any, file: int | None = None) -> None:
        """Send what can be pickled, and a file descriptor with it.

        Raises:
            OSError: nobody is at the other end.
        """

        payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        header = len(payload).to_bytes(self._LENGTH_BYTES, "little")
        if file is None:
            self.socket.sendall(header)
        else:
            socket.send_fds(self.socket, [header], [file])
        self.socket.sendall(payload)

    def receive(self) -> tuple[Any, int | None]:
        """(message, file descriptor or None); the receiver closes the file.

        Raises:
            EOFError: nobody is at the other end.
            TimeoutError: nothing came within the socket's time limit.
        """

        header, files, _, _ = socket.recv_fds(self.socket, self._LENGTH_BYTES, 1)
        header += self._exactly(self._LENGTH_BYTES - len(header), ended=not header)
        payload = self._exactly(int.from_bytes(header, "little"))
        return pickle.loads(payload), files[0] if files else None

    def _exactly(self, size: int, ended: bool = False) -> bytes:
        content = bytearray()
        while len(content) < size:
            part = b"" if ended else self.socket.recv(size - len(content))
            if not part:
                raise EOFError("the other process is gone")
            content += part
        return bytes(content)
