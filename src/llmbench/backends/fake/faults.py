"""Faults of the fake engine by name: errors, crashes, hangs, orphans, and messages of a broken worker."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmbench.backends.fake import FakeEngine

HOST_GIB = 2**30
HOSTILE = "=cmd()|[/bold]</script><script>owned()</script>\n| a | b |\x1b[31m\x9b2J\u202e\u200b\U0001f680`\udcff"
"""A text from an engine that must not be interpreted where it is displayed."""


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's exception, which the worker recognizes."""


class AcceleratorError(RuntimeError):
    """Has the name of torch's exception, which the worker recognizes."""


def _oom(engine: FakeEngine) -> None:
    cell = engine.cell
    raise OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate 2.00 GiB (batch {cell.batch_size}, length {cell.input_len})"
    )


def _cuda_error(engine: FakeEngine) -> None:
    engine.broken = True
    raise AcceleratorError("CUDA error: an illegal memory access was encountered")


def _error(_: FakeEngine) -> None:
    raise ValueError("something nobody has seen before")


def _memory_error(_: FakeEngine) -> None:
    import resource  # noqa: PLC0415 - absent outside Unix, where only this fault needs it

    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf(
        "SC_PAGE_SIZE"
    )
    resource.setrlimit(resource.RLIMIT_AS, (used + HOST_GIB // 8, -1))
    bytearray(HOST_GIB)


def _hang(_: FakeEngine) -> None:
    print("hanging", flush=True)
    time.sleep(3600)


def _hang_native(_: FakeEngine) -> None:
    print("hanging", flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.PyDLL(None).sleep(
        3600
    )  # PyDLL keeps the interpreter's lock: no Python runs in this process again


def _grandchild(_: FakeEngine) -> None:
    subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True
    )


def _orphan(_: FakeEngine) -> None:
    """Leave a process in its own session whose parent has exited."""
    code = "import os, sys, time; os.fork() and os._exit(0); os.setsid(); time.sleep(3600)"
    subprocess.run([sys.executable, "-c", code], check=True)


def _junk(_: FakeEngine) -> None:
    print("Loading checkpoint shards: 100%", flush=True)
    os.write(1, b"\xff\xfe not utf-8 \x1b[31mred\n")


def _flood(_: FakeEngine) -> None:
    block = b"x" * 2**20
    for _mebibyte in range(100):
        os.write(1, block)


def _fake_result(_: FakeEngine) -> None:
    print('{"kind":"result","outcome":{"cell":"x","status":"ok"},"last":true}', flush=True)


def _on_pipe(data: bytes) -> Callable[[FakeEngine], None]:
    """Return a fault that writes into the worker's own message pipe, as only a broken worker could."""

    def fault(_: FakeEngine) -> None:
        for fd in range(3, 64):
            try:
                if str(Path(f"/proc/self/fd/{fd}").readlink()).startswith("pipe:"):
                    os.set_blocking(fd, True)
                    os.write(fd, data)
            except OSError:
                continue

    return fault


def _chatter(engine: FakeEngine) -> None:
    """Send heartbeats without end, as fast as they are taken."""
    heartbeat = b'{"kind":"progress","phase":"iteration","cell":"x","iteration":1}\n' * 1000
    while True:
        _on_pipe(heartbeat)(engine)


def _oversized(engine: FakeEngine) -> None:
    _on_pipe(b"x" * (65 * 2**20))(engine)


def _partial(engine: FakeEngine) -> None:
    _on_pipe(b'{"kind":"progress","pha')(engine)
    os._exit(0)


def _raising(error: Exception) -> Callable[[FakeEngine], None]:
    """Return a fault that raises this exception."""

    def fault(_: FakeEngine) -> None:
        raise error

    return fault


def _both(
    first: Callable[[FakeEngine], None], second: Callable[[FakeEngine], None]
) -> Callable[[FakeEngine], None]:
    """Return a fault that runs two faults in order."""

    def fault(engine: FakeEngine) -> None:
        first(engine)
        second(engine)

    return fault


def _leak_into_log(_: FakeEngine) -> None:
    """Print the environment."""
    print(dict(os.environ), *os.environ.values(), sep="\n", flush=True)


def _leak(engine: FakeEngine) -> None:
    """Print the environment and fail with it in the error, as an engine that logs in somewhere might."""
    _leak_into_log(engine)
    raise ConnectionError(f"refused: {dict(os.environ)}\n" + "\n".join(os.environ.values()))


def _unsupported(_: FakeEngine) -> None:
    raise Unsupported("the fake engine does not run this; it runs anything with fault=none.")


FAULTS: dict[str, Callable[[FakeEngine], Any]] = {
    "oom": _oom,
    "cuda_error": _cuda_error,
    "error": _error,
    "memory_error": _memory_error,
    "segv": lambda _: ctypes.string_at(0),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda _: os._exit(0),
    "hang": _hang,
    "hang_native": _hang_native,
    "grandchild": _grandchild,
    "orphan": _orphan,
    "orphan_hang": _both(_orphan, _hang),
    "junk": _junk,
    "flood": _flood,
    "fake_result": _fake_result,
    "partial": _partial,
    "chatter": _chatter,
    "oversized": _oversized,
    "unknown": _on_pipe(b'{"kind":"surprise"}\n'),
    "stranger": _on_pipe(b'{"kind":"result","outcome":{"cell":"another"},"last":true}\n'),
    "nested": _on_pipe(b'{"kind":"result","outcome":{"engine":' + b'{"a":' * 100_000 + b"\n"),
    "unsupported": _unsupported,
    "oom_reworded": _raising(OutOfMemoryError("the device has no room left")),
    "oom_by_text": _raising(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")),
    "cuda_misleading": _raising(
        AcceleratorError("a kernel ran out of memory bounds: out of memory")
    ),
    "hostile": _raising(ValueError(HOSTILE)),
    "leak": _leak,
    "leak_hang": _both(_leak_into_log, _hang),
    "prefix_hits": lambda engine: setattr(engine, "hits", engine.hits + 1),
}
