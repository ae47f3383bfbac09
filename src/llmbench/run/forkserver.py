"""A process that has imported an engine's packages once and forks a fresh worker for each session.

Importing torch and transformers takes seconds; forking takes milliseconds. A fork is as clean as a new
interpreter as long as the fork server has one thread, no device and no pool of threads: it checks the first
before every fork, and touches no device. Where an import has started threads, or has asked CUDA for
anything, it does the slow, safe thing: the child replaces itself with a new interpreter.

All workers forked from one fork server share its memory layout, which is part of what makes sessions differ.
So a fork server lives for one round: no two sessions of a cell come from the same one.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

from llmbench import interpreter
from llmbench.machine import processes

AFRESH = "afresh"
"""Stands for the backend where an interpreter begins as a worker."""


def main() -> None:
    """Serve on the socket given by its number, forking workers of the backend given by its name."""
    backend, fd = sys.argv[1], int(sys.argv[2])
    if backend == AFRESH:
        work_afresh(fd)
    processes.become_subreaper()  # an orphan of a worker is handed to us, where it is known for what it is
    gc.disable()  # imports make little garbage: a tenth of 2.2 s went into looking for it
    importlib.import_module("llmbench.run.worker")
    try:
        importlib.import_module(f"llmbench.backends.{backend}")
    except Exception:  # noqa: BLE001 - the worker meets it again and makes a record of it
        traceback.print_exc()
    gc.collect()
    gc.freeze()  # so that no collection in a worker walks, and copies, what was imported here
    gc.enable()
    serve(socket.socket(fileno=fd), forks=forks_may_use_cuda())


def forks_may_use_cuda() -> bool:
    """Return whether torch lets a fork of this process use CUDA; only a fork is told, so one is made."""
    torch = sys.modules.get("torch")
    if torch is None:
        return True
    pid = os.fork()
    if pid == 0:
        os._exit(torch.cuda._is_in_bad_fork())  # noqa: SLF001 - has no public name
    return os.waitpid(pid, 0)[1] == 0


def serve(channel: socket.socket, *, forks: bool) -> None:
    """Answer requests until the launcher goes away; report every worker's end with its status.

    `forks` says whether a fork is as good as a new interpreter while there is one thread.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    workers: set[int] = set()
    while True:
        sources: list[Any] = [channel, woken]
        ready, _, _ = select.select(sources, [], [])
        if woken in ready:
            os.read(woken, 512)
            report_ends(channel, workers)
        if channel in ready:
            request, fds, _, _ = socket.recv_fds(channel, 4096, 3)
            if not request:
                for pid in workers:
                    os.kill(pid, signal.SIGKILL)
                return
            fresh = forks and count_threads() == 1
            workers.add(fork_worker(channel, json.loads(request), *fds, fresh=fresh))


def report_ends(channel: socket.socket, workers: set[int]) -> None:
    """Send the wait status and peak memory of every worker that has ended; bury the orphans of workers."""
    with contextlib.suppress(ChildProcessError):  # nobody is left to wait for
        while (ended := os.wait4(-1, os.WNOHANG))[0]:
            pid, status, usage = ended
            if pid in workers:
                workers.discard(pid)
                peak = usage.ru_maxrss * 1024
                say(channel, {"ended": pid, "status": status, "peak_rss_bytes": peak})


def fork_worker(
    channel: socket.socket,
    request: dict[str, str],
    control: int,
    out: int,
    log: int,
    *,
    fresh: bool,
) -> int:
    """Fork one worker; return its process id, and tell it to the launcher."""
    fork_server = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            interpreter.die_with_parent()
            if os.getppid() != fork_server:
                leave(70)  # it died before the kernel knew that this process is to die with it
            become_worker(channel, request["session"], control, out, log, fresh=fresh)
        except BaseException:  # noqa: BLE001 - a child must never return into its parent's loop
            traceback.print_exc()
            leave(70)
    for fd in (control, out, log):
        os.close(fd)
    say(channel, {"forked": pid, "start": "fork" if fresh else "exec"})
    return pid


def become_worker(
    channel: socket.socket, session: str, control: int, out: int, log: int, *, fresh: bool
) -> None:
    """Turn this child into the worker of one session; does not return."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    channel.close()
    os.setsid()  # so that a Ctrl-C meant for the sweep does not reach it
    os.environ[processes.SESSION_VARIABLE] = session
    os.dup2(log, 1)
    os.dup2(log, 2)
    if not fresh:
        os.dup2(control, 0)
        os.set_inheritable(out, True)
        afresh = interpreter.command("llmbench.run.forkserver", AFRESH, out)
        os.execv(afresh[0], afresh)  # noqa: S606 - our own interpreter
    run(control, out)


def work_afresh(out: int) -> NoReturn:
    """Run a worker in a new interpreter, its job on standard input."""
    os.set_inheritable(out, False)
    run(0, out)


def run(control: int, out: int) -> NoReturn:
    """Work, flush what was printed, and leave without the teardown in which engines hang."""
    from llmbench.run import messages, worker  # noqa: PLC0415 - already imported, or not needed by the fork server

    worker.work(messages.read_line(control), control=control, out=out)
    leave(0)


def leave(code: int) -> NoReturn:
    """Flush what was printed and end at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def say(channel: socket.socket, fact: dict[str, object]) -> None:
    """Tell the launcher something."""
    channel.sendall(json.dumps(fact).encode() + b"\n")


def count_threads() -> int:
    """Return this process's threads, native ones too where the system tells."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count() + 1
