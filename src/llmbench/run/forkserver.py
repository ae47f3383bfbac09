"""The fork server: a process that imports an engine's packages once and forks a new worker for each session.

Importing torch and transformers takes seconds; forking takes milliseconds. A fork is as clean as a new interpreter
if the fork server has one thread, no device and no thread pool: it counts threads before every fork, and uses no
device. If an import has started threads or initialised CUDA, the child safely, but slowly, replaces itself with a
new interpreter.

All workers forked from one fork server share its memory layout, which is one reason why sessions differ. A fork
server therefore lives for one round: no two sessions of a cell come from the same one.
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
"""Replaces the backend's name where an interpreter starts directly as a worker."""


def main() -> None:
    """Serve on the socket given by its number, forking workers of the backend given by its name."""
    backend, fd = sys.argv[1], int(sys.argv[2])
    if backend == AFRESH:
        work_afresh(fd)
    processes.become_subreaper()  # a worker's orphans are adopted here, where they are recognised
    gc.disable()  # imports make little garbage, and looking for it took a tenth of 2.2 s
    worker = importlib.import_module("llmbench.run.worker")
    try:
        worker.prepare(backend)
    except Exception:  # noqa: BLE001 - the worker meets it again and makes a record of it
        traceback.print_exc()
    gc.collect()
    gc.freeze()  # keeps a worker's garbage collection from walking, and copying, the imported objects
    gc.enable()
    serve(socket.socket(fileno=fd), forks=forks_may_use_cuda())


def forks_may_use_cuda() -> bool:
    """Return whether torch lets a fork of this process use CUDA; only a fork can tell, therefore this forks."""
    torch = sys.modules.get("torch")
    if torch is None:
        return True
    pid = os.fork()
    if pid == 0:
        os._exit(torch.cuda._is_in_bad_fork())  # noqa: SLF001 - has no public name
    return os.waitpid(pid, 0)[1] == 0


def serve(channel: socket.socket, *, forks: bool) -> None:
    """Serve requests until the launcher is gone, and report every worker's exit status.

    `forks` says whether a fork is as good as a new interpreter if there is one thread.
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
    """Send the wait status and peak memory of every worker that has ended; reap the orphans of workers."""
    with contextlib.suppress(ChildProcessError):  # no child is left
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
    """Fork one worker, report its process id to the launcher and return it."""
    fork_server = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            interpreter.die_with_parent()
            if os.getppid() != fork_server:
                leave(70)  # it died before it was set to take this process with it
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
    os.setsid()  # keeps a Ctrl-C meant for the sweep away from it
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
    """Run a worker in a new interpreter, with its job on standard input."""
    os.set_inheritable(out, False)
    run(0, out)


def run(control: int, out: int) -> NoReturn:
    """Work, flush the output, and exit without the teardown, in which engines may hang."""
    from llmbench.run import messages, worker  # noqa: PLC0415 - already imported, or not needed by the fork server

    worker.work(messages.read_line(control), control=control, out=out)
    leave(0)


def leave(code: int) -> NoReturn:
    """Flush the output and exit at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def say(channel: socket.socket, fact: dict[str, object]) -> None:
    """Send a fact to the launcher."""
    channel.sendall(json.dumps(fact).encode() + b"\n")


def count_threads() -> int:
    """Return the number of threads of this process, including native ones if the system reports them."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count() + 1
