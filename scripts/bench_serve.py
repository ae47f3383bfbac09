"""How late the client of served endpoints is, against a server whose send log is the truth; one core for each.

    scripts/bench-serve                  # 64 256 1024 4096 streams, the start, an open loop, and a busy core
    scripts/bench-serve 1024

The server is scripts/token_server.c, built by `cc`. Beside our client run, in the same minutes, ones written by hand,
whose clocks are read after their own work: with asyncio's streams, and where these are installed on uvloop and with
aiohttp. Every line says what it must reach, and whether it does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmbench.serve import stream, timeline, wire
from llmbench.serve.arrivals import arrivals
from llmbench.serve.stream import Client, now
from llmbench.spec.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
TOKENS, TTFT_MS, ITL_MS = 64, 200.0, 30.0
ANSWERS = 3
RATE, OPEN_STREAMS = 680.0, 2048
LATE_MS, TTFT_50, TTFT_99, TPOT_50, CPU_US, SEND_MS, RSS_MIB = (
    0.1,
    0.01,
    0.02,
    0.005,
    20.0,
    0.4,
    96.0,
)
BUSY_MS = 0.2
MANY = 1024
"""Streams from which the CPU of a token is judged; of fewer, each token is a wake-up of its own."""
START_S, STARTS = 0.6, 7


def which(program: str) -> str:
    """Return where a program is; end with one line if it is not installed."""
    if found := shutil.which(program):
        return found
    sys.exit(f"bench-serve: needs {program}, which is not installed.")


class Got(NamedTuple):
    """What one client saw: each request's number, when it was sent, and when its tokens came; and what it cost."""

    rows: list[tuple[int, int, list[int]]]
    cpu_s: float
    merged: int
    lag_ns: list[int]
    late_sends_ns: list[int]


def main() -> int:
    """Run every measurement and return 1 if one misses what it must reach."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    parser = argparse.ArgumentParser(prog="bench-serve", description=__doc__)
    parser.add_argument("streams", nargs="*", type=int, help="only closed loops of so many streams")
    asked = parser.parse_args().streams
    with tempfile.TemporaryDirectory() as folder:
        server = Path(folder) / "token_server"
        subprocess.run([which("cc"), "-O2", "-o", server, HERE / "token_server.c"], check=True)
        missed = [
            line
            for line in _lines(server, asked or [64, 256, 1024, 4096], whole=not asked)
            if line.endswith("MISSED")
        ]
    return 1 if missed else 0


def _lines(server: Path, numbers: list[int], *, whole: bool) -> Iterator[str]:
    for streams in numbers:
        itl = ITL_MS if streams <= 1024 else 100.0
        yield _shown(_apart(server, "ours", streams, itl))
        for other in OTHERS:
            yield _shown(_apart(server, other, streams, itl))
    if whole:
        yield _shown(_started())
        yield _shown(_apart(server, "open", OPEN_STREAMS, ITL_MS))
        yield _shown(_apart(server, "busy", 256, ITL_MS))


def _shown(line: str) -> str:
    print(line, flush=True)
    return line


def _started() -> str:
    """Measure from the command to the first request that a server which is there gets, besides a bare Python."""
    fake_server = import_module(
        "llmbench.backends.fake_server"
    )  # which no client's memory should hold
    logged = import_module("llmbench.run.client_audit").LOGGED
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        served, address = fake_server.started(folder, {"ttft_ms": 0.0})
        command = [sys.executable, "-m", "llmbench", "sweep", "-m", "pythia-160m", "--load", "1"]
        command += ["--server", f"http://{address.host}:{address.port}", "--sessions", "1"]
        command += ["--option", "window_s=0.2", "--input-len", "16", "--output-len", "2"]
        begun: list[int] = []
        for turn in range(STARTS):
            begun.append(now())
            done = subprocess.run(
                [*command, "-o", str(folder / f"run{turn}")], capture_output=True, check=False
            )
        served.close()
        sent = [at for _, nth, at in logged.iter_unpack((folder / "log").read_bytes()) if nth == 1]
    if len(sent) < STARTS:
        return f"start: the server got no request: {done.stderr.decode()[-300:]} MISSED"
    taken = sorted((min(at for at in sent if at > start) - start) / 1e9 for start in begun)
    bare = []
    for _ in range(STARTS):
        start = now()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare.append((now() - start) / 1e9)
    middle = taken[STARTS // 2]
    return (
        f"start: {middle:.2f} s to the first request ({taken[0]:.2f} to {taken[-1]:.2f} of {STARTS}), "
        f"{middle / sorted(bare)[STARTS // 2]:.0f} times a bare Python: {'kept' if middle <= START_S else 'MISSED'}"
    )


def _apart(server: Path, kind: str, streams: int, itl_ms: float) -> str:
    """Measure in a process of its own, whose memory is nobody else's."""
    code = f"import bench_serve; print(bench_serve.measured({str(server)!r}, {kind!r}, {streams}, {itl_ms}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or f"{kind} {streams}: failed: {done.stderr.strip()[-300:]} MISSED"


def measured(server: str, kind: str, streams: int, itl_ms: float) -> str:
    """Return one line on a client at a number of streams."""
    cores = sorted(os.sched_getaffinity(0))
    port = 20_000 + os.getpid() % 20_000
    log = Path(f"{server}.{port}.log")
    command = [server, str(port), str(TTFT_MS), str(itl_ms), str(log)]
    process = subprocess.Popen([which("taskset"), "-c", str(cores[0]), *command])
    time.sleep(0.3)
    os.sched_setaffinity(0, {cores[-1]})
    burner = (
        subprocess.Popen(
            [which("taskset"), "-c", str(cores[-1]), sys.executable, "-c", "while True: pass"]
        )
        if kind == "busy"
        else None
    )
    try:
        got = RUN[kind](port, streams, itl_ms)
    finally:
        if burner:
            burner.kill()
        process.terminate()
        process.wait()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return _judged(kind, streams, got, _truth(log), rss)


def _truth(log: Path) -> dict[int, list[int]]:
    """Return when each request's tokens were sent."""
    sent: dict[int, list[int]] = {}
    for number, _, at in np.fromfile(log, dtype="<i8").reshape(-1, 3).tolist():
        sent.setdefault(number, []).append(at)
    return sent


def _judged(kind: str, streams: int, got: Got, truth: dict[int, list[int]], rss: float) -> str:
    whole = [row for row in got.rows if len(row[2]) == TOKENS == len(truth.get(row[0], ()))]
    late = np.concatenate([np.array(times) - truth[number] for number, _, times in whole]) / 1e6
    first = np.array([times[0] - sent for _, sent, times in whole])
    true_first = np.array([truth[number][0] - sent for number, sent, _ in whole])
    step = np.array([(times[-1] - times[0]) / (TOKENS - 1) for _, _, times in whole])
    true_step = np.array([(truth[n][-1] - truth[n][0]) / (TOKENS - 1) for n, _, _ in whole])
    q = np.percentile
    off = {
        "late_p99_ms": float(q(late, 99)),
        "ttft_p50": float(q(first, 50) / q(true_first, 50) - 1),
        "ttft_p99": float(q(first, 99) / q(true_first, 99) - 1),
        "tpot_p50": float(q(step, 50) / q(true_step, 50) - 1),
        "cpu_us": got.cpu_s / (len(whole) * TOKENS) * 1e6,
        "send_p99_ms": float(q(got.late_sends_ns, 99)) / 1e6 if got.late_sends_ns else 0.0,
    }
    merged = got.merged / (len(whole) * TOKENS)
    text = (
        f"{kind:8} {streams:5} streams: token late p99 {off['late_p99_ms']:.3f} ms, TTFT p50 {off['ttft_p50']:+.2%} "
        f"p99 {off['ttft_p99']:+.2%}, TPOT {off['tpot_p50']:+.3%}, {off['cpu_us']:.1f} us of CPU a token, "
        f"sends late p99 {off['send_p99_ms']:.3f} ms, merged {merged:.2%}, {rss:.0f} MiB, {len(whole)} answers"
    )
    if kind in OTHERS:
        return text
    if kind == "busy":
        kept = off["late_p99_ms"] <= BUSY_MS or merged > 0.01
        return f"{text}: {'kept' if kept else 'MISSED'}"
    kept = (
        off["late_p99_ms"] <= LATE_MS
        and abs(off["ttft_p50"]) <= TTFT_50
        and abs(off["ttft_p99"]) <= TTFT_99
        and abs(off["tpot_p50"]) <= TPOT_50
        and (off["cpu_us"] <= CPU_US or streams < MANY)
        and off["send_p99_ms"] <= (SEND_MS if kind == "open" else 1e9)
        and (rss <= RSS_MIB or streams != 1024)
    )
    return f"{text}: {'kept' if kept else 'MISSED'}"


def _request(number: int) -> bytes:
    body = b'{"model":"x","prompt":[1],"max_tokens":%d,"stream":true}' % TOKENS
    return (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Number: %d\r\nContent-Length: %d\r\n\r\n%s"
        % (number, len(body), body)
    )


def _answer_s(itl_ms: float) -> float:
    return (TTFT_MS + (TOKENS - 1) * itl_ms) / 1e3


def _seen(client: Client, cpu_s: float) -> Got:
    client.offsets.append((now(), stream.offset()))
    client.parse_all()
    client.close()
    requests = timeline.on_one_clock(client.answers, client.offsets)
    return Got(
        rows=[(each.number, each.sent_ns, each.token_ns) for each in requests],
        cpu_s=cpu_s,
        merged=sum(each.merged for each in requests),
        lag_ns=[lag for each in requests for lag in each.lag_ns],
        late_sends_ns=[each.sent_ns - each.due_ns for each in requests],
    )


def _ours(port: int, streams: int, itl_ms: float) -> Got:
    client = Client(("127.0.0.1", port), streams, _request, wire.reply)
    cpu = time.process_time()
    length = int(ANSWERS * _answer_s(itl_ms) * 1e9)
    client.closed_loop(
        int(_answer_s(itl_ms) * 1e9), lambda each, at: at if at - each.began_ns > length else None
    )
    return _seen(client, time.process_time() - cpu)


def _open(port: int, streams: int, itl_ms: float) -> Got:
    length = ANSWERS * _answer_s(itl_ms)
    due = arrivals(Load("poisson", streams, RATE), "bench", length + 1).tolist()
    client = Client(("127.0.0.1", port), streams, _request, wire.reply)
    cpu = time.process_time()
    client.open_loop(due, lambda each, at: at if at - each.began_ns > length * 1e9 else None)
    return _seen(client, time.process_time() - cpu)


def _by_asyncio(port: int, streams: int, itl_ms: float, loop: Any = None) -> Got:
    """Measure with asyncio's streams and a clock read after each line, as a client is usually written."""

    async def ask(number: int, streams: Any) -> list[int]:
        reader, writer = streams
        times: list[int] = []
        writer.write(_request(number))
        while (line := await reader.readline()) != b"0\r\n":
            if line.startswith(b"data: ") and b'"text"' in line:
                times.append(now())
        await reader.readline()
        return times

    return _by_hand(lambda: asyncio.open_connection("127.0.0.1", port), ask, streams, itl_ms, loop)


def _by_uvloop(port: int, streams: int, itl_ms: float) -> Got:
    return _by_asyncio(port, streams, itl_ms, import_module("uvloop").new_event_loop)


def _by_aiohttp(port: int, streams: int, itl_ms: float) -> Got:
    aiohttp = import_module("aiohttp")
    url = f"http://127.0.0.1:{port}/v1/completions"

    async def session() -> Any:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600))

    async def ask(number: int, session: Any) -> list[int]:
        times: list[int] = []
        body = {"model": "x", "prompt": [1], "max_tokens": TOKENS, "stream": True}
        data = json.dumps(body, separators=(",", ":"))
        async with session.post(url, data=data, headers={"X-Number": str(number)}) as response:
            async for line in response.content:
                if line.startswith(b"data: ") and b'"text"' in line:
                    times.append(now())  # noqa: PERF401 - as each line has come
        return times

    return _by_hand(session, ask, streams, itl_ms)


def _by_hand(
    connect: Callable[[], Any],
    ask: Callable[[int, Any], Any],
    streams: int,
    itl_ms: float,
    loop: Any = None,
) -> Got:
    """Keep streams busy on an event loop; `ask` sends a request on a connection and returns when its tokens came."""
    rows: list[tuple[int, int, list[int]]] = []
    numbers = iter(range(10**9))

    async def one(start: float, until: float) -> None:
        connection = await connect()
        await asyncio.sleep(max(0.0, start - time.monotonic()))
        while time.monotonic() < until:
            number = next(numbers)
            sent = now()
            rows.append((number, sent, await ask(number, connection)))
        for each in connection[1:] if isinstance(connection, tuple) else ():
            each.close()
        if hasattr(connection, "closed"):
            await connection.close()

    async def everyone() -> None:
        length = _answer_s(itl_ms)
        began = time.monotonic() + 0.5
        await asyncio.gather(
            *(one(began + length * n / streams, began + ANSWERS * length) for n in range(streams))
        )

    cpu = time.process_time()
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(everyone())
    return Got(rows, time.process_time() - cpu, 0, [], [])


RUN: dict[str, Callable[[int, int, float], Got]] = {
    "ours": _ours,
    "busy": _ours,
    "open": _open,
    "asyncio": _by_asyncio,
    "uvloop": _by_uvloop,
    "aiohttp": _by_aiohttp,
}
OTHERS = ("asyncio", *(name for name in ("uvloop", "aiohttp") if find_spec(name)))

if __name__ == "__main__":
    sys.exit(main())
