"""The decoding process: takes tasks from its parent until that is gone.

It imports what decoding needs (PyAV, numpy; DALI with the first clip for it), not torch and not megatron-core.
"""

import ctypes
import os
import pickle
import signal
import socket
import sys
import traceback

from vidtron.data.decoding.frames import ClipTask, FrameReader
from vidtron.data.decoding.shared_frames import Channel, FrameWriter
from vidtron.data.errors import BadSampleError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(file: int, parent: int) -> None:
    """Serve the parent process at the other end of a socket.

    Args:
        file: descriptor of the socket. parent: process id.
    """
    # Also in the middle of a clip: the parent's end of the socket is looked at between clips only.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the training process has gone")
    channel = Channel(socket.socket(fileno=file))
    try:
        reader, _ = channel.receive()
        channel.send("ready")
        while True:
            _serve(channel, reader)
    except (EOFError, ConnectionError):
        return


def _serve(channel: Channel, reader: FrameReader) -> None:
    """One task: answered with a report or with the error that it ended with."""
    task, frames = channel.receive()
    assert isinstance(task, ClipTask) and frames is not None
    try:
        answer: object = reader.read(task, FrameWriter(frames, task.shape))
    except BadSampleError as error:
        answer = error
    except Exception as error:  # the consumer's business
        answer = _portable(error)
    finally:
        os.close(frames)
    channel.send(answer)


def _portable(error: Exception) -> Exception:
    """An error as it can go to another process, with the place it came from."""

    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an unknown error's pickling may raise
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note("in a decoding process:\n" + "".join(traceback.format_exception(error)).rstrip())
    return copy
