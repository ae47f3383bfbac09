"""One vLLM server, measured in turn by several clients, with the server's own sums of its latencies as referee.

    scripts/bench-clients MODEL_FOLDER                            # ours and vLLM's own
    scripts/bench-clients MODEL_FOLDER /venvs/aiperf/bin/aiperf /venvs/guidellm/bin/guidellm

Each client keeps 8 requests of 128 prompt tokens and 32 new ones in flight, on a core that the server does not use.
The server counts how long it took from a request's arrival to its first token, and to its end. A client's mean over the
same requests is longer by the way there and back, and by the client's own lateness.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.errors import LoadFailed
from llmbench.results import requests_file
from llmbench.serve import endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
STREAMS, INPUT_LEN, OUTPUT_LEN, REQUESTS = 8, 128, 32, 96
TURNS = 2
SUMS = {
    "ttft": "vllm:time_to_first_token_seconds",
    "e2e": "vllm:e2e_request_latency_seconds",
}
START_S = 600.0
CACHED_NAME = "local/model"
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class Seen(NamedTuple):
    """What a client says of its requests: how many, and their mean times in seconds."""

    requests: int
    ttft_s: float
    e2e_s: float


def main() -> int:
    """Print a line for each client and turn: its means beside the server's."""
    if len(sys.argv) < 2:
        sys.exit("bench-clients: give the folder of a model, then the programs of other clients.")
    folder = str(Path(sys.argv[1]).resolve())
    others = {Path(program).name: program for program in sys.argv[2:]}
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("bench-clients: needs two cores, one for the server and one for the client.")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    os.sched_setaffinity(0, cores[:-1])
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
    server = subprocess.Popen(
        _server(folder, port), stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT}
    )
    os.sched_setaffinity(0, cores[-1:])
    address = endpoint.Address("127.0.0.1", port)
    clients = {"llmbench": ours, "vllm": vllm_own}
    clients |= {name: OTHERS[name](program) for name, program in others.items()}
    try:
        _wait(server, address)
        for turn in range(TURNS + 1):
            for name, client in clients.items():
                with tempfile.TemporaryDirectory() as kept:
                    print(_line(name, turn, client, address, folder, Path(kept)), flush=True)
    finally:
        server.terminate()
        server.wait()
    return 0


def _server(folder: str, port: int) -> list[str]:
    start = ROOT / "src" / "llmbench" / "backends" / "vllm_server" / "start.py"
    return [
        sys.executable, str(start), f"--model={folder}", "--served-model-name=served", "--host=127.0.0.1",
        f"--port={port}", "--dtype=bfloat16", "--max-model-len=512", "--generation-config=vllm", "--enforce-eager",
        "--no-enable-prefix-caching", "--enable-prompt-tokens-details", "--disable-uvicorn-access-log",
    ]  # fmt: skip


def _wait(server: subprocess.Popen[bytes], address: endpoint.Address) -> None:
    deadline = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            endpoint.ask(address, "/health", timeout_s=2.0)
        except OSError:
            time.sleep(1)
        else:
            return
    raise LoadFailed("the server did not answer")


def _line(
    name: str,
    turn: int,
    client: Callable[[endpoint.Address, str, Path], Seen],
    address: endpoint.Address,
    folder: str,
    kept: Path,
) -> str:
    """Return what a client and the server say of the same requests; the turn 0 warms up."""
    before = endpoint.prometheus(endpoint.ask(address, "/metrics"))
    try:
        seen = client(address, folder, kept)
    except (subprocess.CalledProcessError, OSError, KeyError, IndexError, ValueError) as error:
        return f"{name:9} turn {turn}: failed: {error}"
    after = endpoint.prometheus(endpoint.ask(address, "/metrics"))
    count = after[f"{SUMS['ttft']}_count"] - before.get(f"{SUMS['ttft']}_count", 0)
    theirs = {
        key: (after[f"{of}_sum"] - before.get(f"{of}_sum", 0)) / count for key, of in SUMS.items()
    }
    return (
        f"{name:9} turn {turn}: {seen.requests} requests of {count:.0f}; TTFT {seen.ttft_s * 1e3:.2f} ms, the server "
        f"{theirs['ttft'] * 1e3:.2f} ({(seen.ttft_s - theirs['ttft']) * 1e3:+.2f}); E2E {seen.e2e_s * 1e3:.1f} ms, the "
        f"server {theirs['e2e'] * 1e3:.1f} ({(seen.e2e_s - theirs['e2e']) * 1e3:+.2f})"
    )


def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", **(environment or {})},
    )  # fmt: skip
    if done.returncode:
        raise OSError(f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")


def ours(address: endpoint.Address, folder: str, kept: Path) -> Seen:
    """Measure with llmbench, and take the means of all requests that it kept, the ramp and the drain included."""
    answer_s = 1.2
    _run(
        sys.executable, "-m", "llmbench", "sweep", "--server", f"http://{address.host}:{address.port}", "--model",
        folder, "--load", str(STREAMS), "--input-len", str(INPUT_LEN), "--output-len", str(OUTPUT_LEN), "--sessions",
        "1", "--device", "cpu", "--option", f"window_s={REQUESTS / STREAMS * answer_s:g}", "-o", str(kept / "run"),
        "--allow-shared",
    )  # fmt: skip
    (path,) = (kept / "run" / "requests").iterdir()
    read = requests_file.load(path)
    times = list(zip(read.due_s.tolist(), read.token_s, strict=True))
    first = [float(tokens[0]) - due for due, tokens in times]
    whole = [float(tokens[-1]) - due for due, tokens in times]
    return Seen(len(first), sum(first) / len(first), sum(whole) / len(whole))


def vllm_own(address: endpoint.Address, folder: str, kept: Path) -> Seen:
    """Measure with the client that vLLM ships."""
    code = (
        "import argparse, sys; from vllm.benchmarks import serve; parser = argparse.ArgumentParser(); "
        "serve.add_cli_args(parser); serve.main(parser.parse_args(sys.argv[1:]))"
    )
    _run(
        sys.executable, "-c", code, "--backend=openai", f"--base-url=http://{address.host}:{address.port}",
        "--model=served", f"--tokenizer={folder}", "--dataset-name=random", f"--random-input-len={INPUT_LEN}",
        f"--random-output-len={OUTPUT_LEN}", f"--num-prompts={REQUESTS}", f"--max-concurrency={STREAMS}",
        "--ignore-eos", "--percentile-metrics=ttft,tpot,itl,e2el", "--ready-check-timeout-sec=0", "--save-result",
        f"--result-filename={kept / 'vllm.json'}",
    )  # fmt: skip
    told = json.loads((kept / "vllm.json").read_text())
    return Seen(told["completed"], told["mean_ttft_ms"] / 1e3, told["mean_e2el_ms"] / 1e3)


def aiperf(program: str) -> Callable[[endpoint.Address, str, Path], Seen]:
    """Return the client AIPerf."""

    def client(address: endpoint.Address, folder: str, kept: Path) -> Seen:
        _run(
            program, "profile", "--model", "served", "--url", f"{address.host}:{address.port}", "--endpoint-type",
            "completions", "--streaming", "--tokenizer", CACHED_NAME, "--synthetic-input-tokens-mean", str(INPUT_LEN),
            "--synthetic-input-tokens-stddev", "0", "--output-tokens-mean", str(OUTPUT_LEN), "--output-tokens-stddev",
            "0", "--concurrency", str(STREAMS), "--request-count", str(REQUESTS), "--extra-inputs", "ignore_eos:true",
            "--extra-inputs", f"min_tokens:{OUTPUT_LEN}", "--artifact-dir", str(kept / "aiperf"), "--ui", "none",
            environment={"HF_HOME": str(_cached(folder, kept))},
        )  # fmt: skip
        told = json.loads(next(kept.rglob("profile_export_aiperf.json")).read_text())
        count = int(told["request_count"]["avg"])
        return Seen(
            count, told["time_to_first_token"]["avg"] / 1e3, told["request_latency"]["avg"] / 1e3
        )

    return client


def _cached(folder: str, kept: Path) -> Path:
    """Return a hub's cache that has the tokenizer of a folder: AIPerf reads no folder of one's own."""
    model = kept / "hub" / f"models--{CACHED_NAME.replace('/', '--')}"
    snapshot = model / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    for path in Path(folder).glob("*.json"):
        shutil.copy(path, snapshot)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0")
    return kept


def guidellm(program: str) -> Callable[[endpoint.Address, str, Path], Seen]:
    """Return the client GuideLLM."""

    def client(address: endpoint.Address, folder: str, kept: Path) -> Seen:
        _run(
            program, "run", "--backend",
            f"kind=openai_http,target=http://{address.host}:{address.port},model=served,request_format=/v1/completions",
            "--profile", f"kind=concurrent,streams={STREAMS}", "--constraint", f"kind=max_requests,count={REQUESTS}",
            "--tokenizer", f"kind=huggingface_auto,model={folder}", "--data",
            f"kind=synthetic_text,prompt_tokens={INPUT_LEN},output_tokens={OUTPUT_LEN}", "--output",
            f"kind=json,path={kept / 'guidellm.json'}", "--disable-console",
        )  # fmt: skip
        told: Any = json.loads(next(kept.rglob("*.json")).read_text())["benchmarks"][0]["metrics"]
        ttft, whole = told["time_to_first_token_ms"], told["request_latency"]
        return Seen(
            int(ttft["successful"]["count"]),
            ttft["successful"]["mean"] / 1e3,
            whole["successful"]["mean"],
        )

    return client


OTHERS = {"aiperf": aiperf, "guidellm": guidellm}

if __name__ == "__main__":
    sys.exit(main())
