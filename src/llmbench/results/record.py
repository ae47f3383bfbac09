"""The structs of jobs and records, written as one JSON line each.

History of the format:
    1  the first.

History of the protocol (`spec.PROTOCOL`):
    0  not ours: imported from another tool's file.
    1  the first.
    2  at least three warm-up calls, until no trend is left; the number of sessions is fixed after the first stage.

Raw times are whole nanoseconds. `None` means not measured, never zero.
"""

from __future__ import annotations

import enum
from typing import Any, Literal, TypeAlias

import msgspec

from llmbench.machine.peaks import Probe  # noqa: TC001 - msgspec reads the annotations
from llmbench.models.resolve import Model  # noqa: TC001 - msgspec reads the annotations
from llmbench.results.prediction import Prediction  # noqa: TC001 - msgspec reads the annotations
from llmbench.spec.sweep import Cell, Point, Protocol  # noqa: TC001 - msgspec reads the annotations

FORMAT = 1


class Status(enum.StrEnum):
    """How a planned session ended."""

    OK = "ok"
    INVALID = "invalid"
    OOM = "oom"
    CUDA_ERROR = "cuda_error"
    CRASH = "crash"
    TIMEOUT = "timeout"
    LOAD_FAILED = "load_failed"
    UNSUPPORTED = "unsupported"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"
    DEVICE_DIRTY = "device_dirty"


NOT_FINAL = (Status.INTERRUPTED, Status.DEVICE_DIRTY)
"""Statuses of sessions that were cut off; resuming the run measures them again."""


class Finding(msgspec.Struct, frozen=True):
    """A warning or error about a number: a reason code and its figures."""

    code: str
    detail: str


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One timed iteration, raw.

    Attributes:
        e2e_ns: from the call to all tokens on the host, by the monotonic clock; None if the clock failed.
        wall_ns: the same interval by the wall clock, as a check.
        token_ns: from the call to each new token; one row if the batch advances in lock-step, else one per sequence.
        energy_mj: millijoules of the device over the iteration, from its cumulative counter.
        discarded: the reason if this iteration does not count (throttled).

    """

    e2e_ns: int | None
    wall_ns: int | None
    token_ns: list[list[int]]
    energy_mj: int | None = None
    discarded: str | None = None


class Memory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Memory in bytes, from an untimed iteration. METHOD section 1 defines each; None = not measured."""

    weights_bytes: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_theoretical_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    device_used_bytes: int | None = None
    process_used_bytes: int | None = None
    host_peak_rss_bytes: int | None = None
    host_peak_rss_load_bytes: int | None = None
    host_peak_rss_generate_bytes: int | None = None
    draft_bytes: int | None = None
    adapter_bytes: int | None = None


class Given(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Another tool's number, under the key in METRICS with the same definition.

    Attributes:
        value: in the unit of the key; the median of `samples`, if any.
        definition: the tool's own definition.
        clock: the tool's clock or counter.
        tokens: the source of its token counts; empty if it has none.
        per: the meaning of a sample, an iteration in one process or a request among others; "run" without samples.
        samples: as written by the tool, in the unit of the key.

    """

    value: float
    definition: str
    clock: str
    tokens: str = ""
    per: Literal["iteration", "request", "run"] = "run"
    samples: list[float] = []


class Served(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One session of a served endpoint under load, raw but for its requests, which have a file of their own.

    Attributes:
        warmup_s: from the first request to the window's start.
        steady: whether the ramp ended because the rate had settled.
        window_s: how long the window was open.
        due: requests due in the window; `done` of them were answered in full, `failed` counts the others by kind.
        figures: what the window says besides its metrics: rates, requests in flight, Little's law, growth.
        overloaded: whether more came in than went out; latencies are withheld then.
        client: its cores, how busy it was, how late its clock and its sends were, reads that held several tokens.
        server: kind, version, whether it was started for this session, and its own counts over the session.
        tokens: how new tokens were counted: by `ids` in a proof before, and by `usage` always.
        prompts: where they were words or had a part in common: `prompt_as`, how many words they are drawn from, the
            tokens besides those; the `shared_prefix` asked for, the share of all prompt tokens that every prompt
            begins with (`shared`), and the share from the server's cache (`hits`; None if it does not say).
        requests: the file's name, digest and size, and how many requests it holds.
        tried: of a search for the highest rate, each rate in turn: requests a second, how many met every limit, of how
            many, and whether the server carried it. The window above is the last.

    """

    warmup_s: float
    steady: bool
    window_s: float
    due: int
    done: int
    failed: dict[str, int] = {}
    figures: dict[str, float | None] = {}
    overloaded: bool = False
    client: dict[str, Any] = {}
    server: dict[str, Any] = {}
    tokens: str = ""
    prompts: dict[str, Any] = {}
    requests: dict[str, Any] = {}
    tried: list[list[float | bool]] = []


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The file of another tool that numbers were imported from.

    Attributes:
        tool: that wrote it.
        file: its name, without folders.
        sha256: of its bytes.
        version: the tool's, if the file has it.
        samples: the definition and clock of the record's samples, if it has some.
        refused: numbers not imported, each with the reason.

    """

    tool: str
    file: str
    sha256: str
    version: str | None = None
    samples: str | None = None
    refused: dict[str, str] = {}


class Rank(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's place in an engine on several boxes: its number `of` so many, and where number 0 is met."""

    number: int
    of: int
    address: str
    port: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One session of one group, with everything that a worker needs.

    `attended` says whether a launcher answers each result before the next cell begins, `gated` whether it also says
    when each cell's clock may run, because other GPUs of the machine are measured at the same time; `prompts_text` is the
    content of a prompts file, `requests_folder` where the raw requests of served cells go. An engine on several boxes has a
    worker on each, with its `rank`.
    """

    cells: list[Cell]
    model: Model
    protocol: Protocol
    session: int
    attempt: int = 1
    attended: bool = False
    gated: bool = False
    prompts_text: str | None = None
    requests_folder: str | None = None
    rank: Rank | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker's result of one cell. A failed cell has an `error` and keeps the samples taken before it.

    `load_s` is the whole group's load time; `cell_s` the cell's total time in the worker. `memory_error` is why the
    memory could not be read after the timed iterations, whose numbers stand all the same. `prompt_bytes_per_token`
    counts UTF-8 bytes of text prompts; None for random ids. `imported` names the other tool's file that this came
    from; `given` has its numbers that do not match our samples, and those of a `served` endpoint.
    """

    cell: str
    engine: dict[str, Any] = {}
    load_s: float | None = None
    cell_s: float | None = None
    warmup_ns: list[int | None] = []
    warmup_converged: bool | None = None
    samples: list[Sample] = []
    prompt_bytes_per_token: float | None = None
    returned: dict[str, int] = {}
    counters: dict[str, int] = {}
    telemetry: dict[str, Any] = {}
    memory: Memory | None = None
    memory_error: str | None = None
    status: Status = Status.OK
    phase: str | None = None
    error: str | None = None
    trace: str | None = None
    given: dict[str, Given] = {}
    imported: Source | None = None
    served: Served | None = None


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="begin"):
    """The intent to measure one session of one cell. A begin without a result means that the sweep was killed."""

    format: int = FORMAT
    cell: str
    session: int
    attempt: int
    at: str
    token: str
    pid: int
    pid_start_s: float
    boot: str


class Result(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="end"):
    """The result of one session of one cell, ours or another tool's. Immutable; one line in `records.jsonl`."""

    format: int = FORMAT
    protocol: int
    id: str
    session: int
    attempt: int
    status: Status
    phase: str | None = None
    reason: str | None = None
    problems: list[Finding] = []
    warnings: list[Finding] = []
    cell: Point
    outcome: Outcome
    telemetry: dict[str, Any] = {}
    worker: dict[str, Any] = {}
    environment: str
    ended: str


class Record(Result, frozen=True, kw_only=True, tag_field="kind", tag="end"):
    """A result measured by llmbench, with all facts of its cell."""

    cell: Cell

    @property
    def final(self) -> bool:
        """Return whether its planned session is finished."""
        return self.status not in NOT_FINAL

    @property
    def verdict(self) -> Literal["valid", "valid with warnings", "invalid", "failed"]:
        """Return the validity of the numbers."""
        if self.status is Status.OK:
            return "valid with warnings" if self.warnings else "valid"
        return "invalid" if self.status is Status.INVALID else "failed"


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="stop"):
    """The reason why a cell got no further session.

    The sessions `planned` after the first stage, the `maximum`, `budget`, `failed`; until protocol 1 `interval`, as
    soon as it was narrow enough.
    """

    format: int = FORMAT
    cell: str
    sessions: int
    reason: Literal["planned", "interval", "maximum", "budget", "failed"]
    half_width: float | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="sweep"):
    """The resolved sweep, with its cells, protocol and environment. The first line of a run, repeated when it changes.

    `predictions`, by cell id, and the `probes` behind them were made before anything ran. `turns` is the same in all
    runs that were measured in turn, round by round; empty in others.
    """

    format: int = FORMAT
    protocol: int
    run: str
    name: str
    why: str
    command: str
    at: str
    cells: list[Cell]
    models: list[Model]
    settings: Protocol
    machine: dict[str, Any]
    environment: dict[str, Any]
    environment_digest: str
    warnings: list[str] = []
    predictions: dict[str, Prediction] = {}
    probes: list[Probe] = []
    turns: str = ""


class Import(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="import"):
    """The first line of an imported run: the tools and files that it was read from.

    Attributes:
        machine: the short name of the chip that it was measured on, as the user gave it; empty if unknown.

    """

    format: int = FORMAT
    run: str
    name: str
    command: str
    at: str
    sources: list[Source]
    machine: str = ""


class Parity(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="parity"):
    """A verdict on whether an engine computes the same function as a float32 reference, for the cells named.

    The latest verdict on a cell counts. All sessions of a cell that `failed` are invalid to every reader;
    `untested` changes nothing, and `quantised` says how far weights that were asked to be quantised are from the others.

    Attributes:
        positions: tokens compared; the reference would choose `same` of them, and `wrong` of them differ by more
            than a near tie.
        error_nats: root mean square of the differences of log-probabilities; `noise_nats` that of the dtype itself.

    """

    format: int = FORMAT
    cells: list[str]
    verdict: Literal["passed", "failed", "untested", "quantised"]
    why: str
    model: str
    backend: str
    options: dict[str, Any]
    device: str
    dtype: str
    positions: int | None = None
    same: int | None = None
    wrong: int | None = None
    error_nats: float | None = None
    noise_nats: float | None = None
    at: str = ""
    environment: str = ""


class Place(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="place"):
    """A box that measures for the run, written when it joins for the first time.

    Attributes:
        at: when it joined, by the clock of the sweep's machine.
        name: the box's name.
        units: the ids of its GPUs, or of its processors, as records name them in `worker`.
        machine: its facts, with these GPUs only.
        environment: of the numbers that are measured there, and its digest.
        daemons: processes of cluster engines that run there, such as Ray's, and use its processors all the time.

    """

    format: int = FORMAT
    at: str
    name: str
    units: list[str]
    machine: dict[str, Any]
    environment: dict[str, Any]
    environment_digest: str
    daemons: list[str] = []


class Move(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="move"):
    """Cells that are measured anew on other units: their sessions on `unit` stay in the file and no longer count."""

    format: int = FORMAT
    cells: list[str]
    unit: str
    at: str


Line: TypeAlias = Plan | Begin | Record | Stop | Import | Parity | Place | Move
