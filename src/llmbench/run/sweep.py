"""One invocation of a sweep: its run's folder, whether it may continue there, and its exit code."""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import secrets
import sys
import time
from collections import Counter
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from rich.console import Console

from llmbench import backends, places
from llmbench.errors import ExitCode, NothingToRun, RunError, SpecError
from llmbench.machine import info, peaks, processes, state
from llmbench.measure import telemetry
from llmbench.measure.checks import OTHER_WARNS
from llmbench.predict import estimate, nearest
from llmbench.redact import command_line, redact, redact_all, shown
from llmbench.results import anonymous, store
from llmbench.results.record import Plan, Record, Status
from llmbench.results.store import RESULTS
from llmbench.run import pins
from llmbench.run import resume as run_resume
from llmbench.run.boxes import Boxes
from llmbench.run.plan import not_installed, plan
from llmbench.run.progress import Screen
from llmbench.run.runner import Runner
from llmbench.run.signals import Interrupt
from llmbench.spec import grid, overrides
from llmbench.spec import sweep as spec_sweep
from llmbench.spec.load import LOAD
from llmbench.spec.sweep import PROTOCOL, slug

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from llmbench.machine.peaks import Probe
    from llmbench.models.resolve import Model
    from llmbench.results.prediction import Prediction
    from llmbench.results.store import Run
    from llmbench.results.trust import Trust
    from llmbench.run.channel import Device
    from llmbench.run.plan import Planned
    from llmbench.spec.sweep import Sweep

FILES_OF_A_SWEEP = 20
"""Files open at once, besides those at the start and a channel to each fork server: lock, records, signals, and
eight while a worker starts, 11 in total as counted, plus some that a worker's imports open."""
FILES_OF_A_BOX = 3
"""Two pipes, and the file of what a box's command writes to its standard error."""
USUAL_FILES = 4
"""The number assumed open at the start, if the system does not tell."""
BUSY = 0.2
"""The share of all processors used by others, while a sweep is planned, above which it warns. A record warns at
less, but planning takes a fraction of a second, in which a tick of 10 ms weighs much."""
QUIET_WITHIN_S, LOOK_OVER_S, TELL_EVERY_S = 600.0, 2.0, 60.0
"""How long --wait-for-quiet waits at most, over how long it looks, and how often it says so."""


Show: TypeAlias = "Callable[[Path, Console], Trust | None]"
"""Shows the run in a folder on a console, and returns how far its numbers can be trusted."""


class Where(msgspec.Struct, frozen=True):
    """Command line options about the boxes and GPUs that measure; without any, this machine on one GPU at a time.

    With `crowd`, one group is measured at a time, `alone` or `together` with the same job on the box's other GPUs.
    """

    places: str = ""
    hosts: str = ""
    gpus: str = ""
    move: bool = False
    crowd: str = ""

    def over(self, wanted: Sweep) -> Where:
        """Return these options, and those of a sweep's file that are not given; --places replaces its hosts, too."""
        hosts = wanted.hosts if isinstance(wanted.hosts, str) else ",".join(wanted.hosts)
        gpus = wanted.gpus if isinstance(wanted.gpus, list) else [wanted.gpus]
        return msgspec.structs.replace(
            self,
            places=self.places or wanted.places,
            hosts=self.hosts or ("" if self.places else hosts),
            gpus=self.gpus or ",".join(map(str, gpus)),
        )

    @property
    def is_here(self) -> bool:
        """Return whether this machine alone measures."""
        return self.places in {"", "local"}


class SweepOptions(msgspec.Struct, frozen=True):
    """Command line options about the run, as opposed to the sweep."""

    output_dir: Path | None
    resume: bool
    new_environment: bool
    allow_shared: bool
    offline: bool
    run_anyway: bool = False
    anonymous: bool = False
    add: bool = False
    wait_for_quiet: bool = False
    rounds: int | None = None
    turns: str = ""
    where: Where = Where()


class BeforeSweep:
    """What used the CPUs when a sweep began to plan, to be told when it begins to measure."""

    def __init__(self) -> None:
        """Begin to watch."""
        self.cpus, self.processes = telemetry.CpuWindow(), processes.CpuTimes()


def probe_first(sweep: Sweep, console: Console) -> None:
    """Measure the ceilings of the devices that a sweep uses, unless saved ones exist."""
    from llmbench.measure import probe  # noqa: PLC0415 - few sweeps begin with it

    machine = info.machine()
    have = {each.device for each in peaks.probes_of(machine)}
    wanted = {cell.device.partition(":")[0] for cell in plan(sweep).cells} - have
    probe.measure_and_keep(
        machine, sorted(wanted), lambda text: console.print(text, markup=False, soft_wrap=True)
    )


def sweep(wanted: Sweep, asked: SweepOptions, console: Console, command: str, show: Show) -> int:
    """Measure pending sessions, show the table, and return the exit code."""
    window = BeforeSweep()
    if asked.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if asked.anonymous and (asked.where.places or asked.where.gpus):
        raise SpecError(
            "--anonymous: does not go together with --places or --gpus; measure without it, and copy the run "
            "with llmbench export --anonymous."
        )
    if asked.resume and asked.output_dir:
        raise SpecError(
            "--resume: finds the run itself; leave it out, or -o, which continues the run that it names."
        )
    with joined(wanted, asked.where) as boxes:
        planned = plan(wanted, machine=boxes.first.machine if boxes else None)
        if boxes is None and (missing := not_installed(planned.cells)):
            raise RunError(missing[0])
        _refuse_few_files(planned, len(boxes.all) if boxes else 0)
        if asked.wait_for_quiet:
            wait_for_quiet(planned, console)
            window = BeforeSweep()
        return _measure(planned, asked, console, command, show, boxes, window)


def _measure(
    planned: Planned,
    asked: SweepOptions,
    console: Console,
    command: str,
    show: Show,
    boxes: Boxes | None,
    before: BeforeSweep,
) -> int:
    """Measure in the run's folder, show the table, and return the exit code."""
    wanted, machine = planned.sweep, boxes.first.machine if boxes else info.machine()
    folder = asked.output_dir or _folder(wanted.name, str(machine["name"]), resume=asked.resume)
    with Interrupt() as interrupt, store.open_run(folder) as run:
        for notice in run.notices:
            console.print(shown(notice), markup=False, style="yellow", soft_wrap=True)
        planned = _without_too_wide(planned, machine, run, boxes)
        if is_anonymous := _is_anonymous(run, asked):
            run.told = anonymous.line
        written = _describe(run, planned, machine, asked, command, boxes)
        for change in run_resume.since(run.log.plan, written) if run.log.plan else ():
            console.print(shown(change), markup=False, style="yellow", soft_wrap=True)
        processes.adopt_orphans()
        for stray in processes.kill_left_over(processes.Mark.of_run(written.run, folder)):
            console.print(
                f"Killed {stray}, left over from an earlier invocation.",
                markup=False,
                style="yellow",
            )
        _refuse_shared(planned, asked, boxes)
        screen = Screen(console, planned.sweep.name)
        runner = Runner(
            planned,
            written,
            run,
            screen,
            interrupt,
            run_anyway=asked.run_anyway,
            rounds=asked.rounds,
            elsewhere=boxes is not None,
        )
        if boxes:
            _dispatch(boxes, runner, asked)
        _announce(runner, before)
        try:
            with screen:
                runner.measure_all()
        finally:
            if is_anonymous:
                runner.leave_no_logs()
        trust = None if asked.turns else show(folder, console)
        agreed = asked.allow_shared and trust is not None and trust.only_disturbed
        return _conclude(run, runner, console, interrupt, None if agreed else trust)


@contextlib.contextmanager
def joined(wanted: Sweep, asked: Where) -> Iterator[Boxes | None]:
    """Start the agents of all boxes that are asked for, if any, and wait until each has said what it is."""
    if asked.hosts and not asked.places:
        raise SpecError("--hosts: names hosts for --places, which is not given.")
    if asked.move and not (asked.places or asked.gpus):
        raise SpecError("--move: only works together with --places or --gpus.")
    if not (asked.places or asked.gpus):
        yield None
        return
    _refuse_served(wanted, asked)
    names = tuple(name for name in asked.hosts.split(",") if name)
    hosts = places.hosts(asked.places or "local", names)
    devices = grid.words(wanted.axes.device)
    device: Device = "cpu" if devices == ["cpu"] else "cuda" if devices == ["cuda"] else "auto"
    with Boxes(hosts, _numbers(asked.gpus), device) as boxes:
        yield boxes


def _numbers(gpus: str) -> list[int] | None:
    """Return the numbers that --gpus lists; None for all, which is the default."""
    if gpus in {"", "all"}:
        return None
    words = [word.strip() for word in gpus.split(",")]
    if not all(word.isascii() and word.isdecimal() and len(word) < 5 for word in words):
        raise SpecError(f"--gpus: {gpus!r} is neither all nor a list of numbers, such as 0,1.")
    if len(set(words)) < len(words):
        raise SpecError(f"--gpus: {gpus!r} names a GPU twice.")
    return sorted(map(int, words))


def _dispatch(boxes: Boxes, runner: Runner, asked: SweepOptions) -> None:
    """Let boxes measure, say which they are, and what the run waits for; with --move let nothing wait."""
    from llmbench.run.dispatch import Dispatch  # noqa: PLC0415 - few sweeps need it, and it loads numpy

    boxes.own(runner.written.run)
    crowd = asked.where.crowd
    alone = bool(crowd) or not asked.where.gpus
    runner.dispatch = Dispatch(boxes, runner, alone=alone, company=crowd == "together")
    for notice in boxes.refused:
        runner.screen.note(notice)
    if asked.where.move:
        runner.dispatch.move()
    for line in runner.dispatch.told():
        runner.screen.note(line)


def wait_for_quiet(planned: Planned, console: Console) -> None:
    """Wait until no others use the CPUs or the GPUs; raise RunError if they still do after QUIET_WITHIN_S."""
    gpu = telemetry.gpu_of(planned.cells)
    deadline, told_at = time.monotonic() + QUIET_WITHIN_S, -math.inf
    while company := _company(gpu):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise RunError(
                f"--wait-for-quiet: after {QUIET_WITHIN_S / 60:.0f} min, {company}. Nothing was measured; try again "
                "when they are done, or leave the flag out."
            )
        if time.monotonic() - told_at >= TELL_EVERY_S:
            told_at = time.monotonic()
            text = f"Waiting for a quiet machine, {left_s / 60:.0f} min at most: {company}."
            console.print(shown(text), markup=False, style="yellow", soft_wrap=True)


def _company(gpu: telemetry.Gpu | None) -> str:
    """Return who else uses the CPUs or the GPUs, in words; empty if nobody does."""
    window = telemetry.CpuWindow()
    who = processes.busiest(LOOK_OVER_S)
    if (share := window.others()) > OTHER_WARNS:
        return f"other processes use {share:.0%} of the CPUs{who and f': {who}'}"
    others = gpu.others({os.getpid()}) if gpu else ()
    return f"the GPU is in use by process {', '.join(map(str, others))}" if others else ""


def _is_anonymous(run: Run, asked: SweepOptions) -> bool:
    """Return whether a run is written anonymously; refuse a run that began otherwise."""
    earlier = run.log.plan
    began_so = earlier is not None and earlier.command == anonymous.COMMAND
    if asked.anonymous and earlier is not None and not began_so:
        raise RunError(
            f"{run.folder}: was started without --anonymous. Continue it without that option, then copy it "
            f"with llmbench export --anonymous."
        )
    return asked.anonymous or began_so


def measured_anew(file: Path, purpose: str, sessions: int, show: Show) -> tuple[Path, int]:
    """Measure a sweep file in the state folder with this many sessions per cell; return the run and exit code."""
    changes = {"sessions": sessions, "max_sessions": sessions}
    wanted = overrides.with_protocol(spec_sweep.read_sweep(file), changes)
    folder = state.folder() / purpose / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{slug(wanted.name)}"
    asked = SweepOptions(
        folder, resume=False, new_environment=False, allow_shared=False, offline=False
    )
    command = command_line(["llmbench", *sys.argv[1:]])
    return folder, sweep(wanted, asked, Console(highlight=False, stderr=True), command, show)


def _announce(runner: Runner, before: BeforeSweep) -> None:
    """Show what will be measured, and warnings about measuring it now."""
    screen, planned, protocol = runner.screen, runner.planned, runner.protocol
    sessions, most = min(protocol.sessions, runner.rounds), runner.rounds
    screen.planned = len(planned.cells) * sessions
    screen.before = sum(min(len(standing.done), sessions) for standing in runner.standings.values())
    screen.further = sum(len(runner.pending(session)) for session in range(sessions + 1, most + 1))
    if not (runner.written.turns and screen.before):  # the first round has told them
        for warning in planned.warnings:
            screen.note(warning)
    if not any(runner.pending(session) for session in range(1, most + 1)):
        screen.note("Nothing left to measure: every planned session has ended.")
        return
    if (others := before.cpus.others()) > BUSY:
        who = before.processes.busiest()
        screen.note(
            f"Other processes use {others:.0%} of the CPUs; results measured now will be slower and carry a warning."
            f"{who and f' Busy: {who}.'} --wait-for-quiet waits until they are done."
        )
    left = screen.planned - screen.before
    more = f", and up to {screen.further} more if intervals stay wide" if screen.further else ""
    screen.note(f"{runner.run.folder}: {left} of {screen.planned} sessions to run{more}.")


def _conclude(
    run: Run, runner: Runner, console: Console, interrupt: Interrupt, trust: Trust | None
) -> int:
    """Print the counts and the path; return the exit code."""
    counts = Counter(
        status for standing in runner.standings.values() for status in standing.done.values()
    )
    counted = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    folder = shown(str(run.folder))
    console.print(f"{counted or 'no session ended'}  ->  {folder}", markup=False, soft_wrap=True)
    for waiting in runner.dispatch.told() if runner.dispatch and interrupt.signal is None else ():
        console.print(shown(waiting), markup=False, style="yellow", soft_wrap=True)
    if runner.watch.halt:
        console.print(shown(runner.watch.halt.why), markup=False, style="red", soft_wrap=True)
    if interrupt.signal is not None:
        console.print(
            f"Stopped. Run the same sweep with -o {folder} to continue.",
            markup=False,
            soft_wrap=True,
        )
        return interrupt.exit_code
    waits = runner.dispatch is not None and any(runner.dispatch.told())
    if runner.watch.halt or waits or not set(counts) <= {Status.OK}:
        return ExitCode.INCOMPLETE
    again = trust and trust.verdict == "measure again" and Status.OK in counts
    return ExitCode.NEGATIVE if again else ExitCode.DONE


def _folder(name: str, machine_name: str, *, resume: bool) -> Path:
    """Return a new folder under results/, or with `resume` the newest of this sweep on this machine."""
    ending = f"-{slug(machine_name)}-{slug(name)}"
    if resume:
        if run := store.newest(rf"\d{{4}}-\d\d-\d\d{re.escape(ending)}(-\d+)?"):
            return run
        raise RunError(
            f"--resume: there is no run of {name!r} on this machine under {RESULTS}/. "
            "Leave out --resume to start one."
        )
    first = RESULTS / f"{date.today().isoformat()}{ending}"  # noqa: DTZ011 - the user's calendar day
    number, folder = 1, first
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def _describe(
    run: Run,
    planned: Planned,
    machine_facts: dict[str, object],
    asked: SweepOptions,
    command: str,
    boxes: Boxes | None,
) -> Plan:
    """Write the plan, unless the run already has it; refuse to mix environments."""
    if boxes:
        facts, digest = boxes.first.environment, boxes.first.digest
    else:
        facts, digest = info.environment(machine_facts)
    if run.log.imported:
        raise RunError(
            f"{run.folder}: contains results of other tools; give the sweep a folder of its own."
        )
    earlier = run.log.plan
    if earlier:
        run_resume.refuse_other_sweep(earlier, planned.sweep.name, run.folder)
    _refuse_other_way(run, boxes)
    if boxes:
        kind = earlier.environment if earlier and not asked.new_environment else facts
        boxes.refuse_other_kinds(kind)
        if earlier and kind is earlier.environment:
            facts, digest, machine_facts = kind, earlier.environment_digest, earlier.machine
    elif earlier and not asked.new_environment:
        run_resume.refuse_other_environment(earlier, facts, digest)
    probes = peaks.probes_of(machine_facts)
    written = Plan(
        protocol=PROTOCOL,
        run=earlier.run if earlier else secrets.token_hex(16),
        name=planned.sweep.name,
        why=planned.sweep.why,
        command=command,
        at=info.utc_now("milliseconds"),
        cells=planned.cells,
        models=[_without_secrets(model) for model in planned.models.values()],
        settings=planned.sweep.protocol,
        machine=machine_facts,
        environment=facts,
        environment_digest=digest,
        warnings=redact_all(planned.warnings),
        predictions=_predictions(planned, machine_facts, probes, earlier),
        probes=probes,
        turns=earlier.turns if earlier else asked.turns,
    )
    written = run.told(written)
    begun = next(run.log.records(Record), None) is not None
    if earlier and begun and not asked.add:
        run_resume.refuse_other_grid(earlier, written, run.folder)
    planned_before = any(isinstance(line, Plan) for line in run.log)
    if earlier and planned_before and run_resume.same(earlier, written):
        written = earlier
    else:
        run.append(written)
    run.describe(written)  # also after a kill that kept the last sweep from writing it
    return written


def _refuse_other_way(run: Run, boxes: Boxes | None) -> None:
    """Refuse to mix sessions whose unit is written down with sessions whose unit is not."""
    begun = next(run.log.records(Record), None) is not None
    if boxes is None and run.log.places:
        raise RunError(
            f"{run.folder}: was measured with --places or --gpus; continue it with them, or use another --output."
        )
    if boxes and begun and not run.log.places:
        raise RunError(
            f"{run.folder}: was measured without --places and --gpus, so nothing says on which GPU; "
            "continue it without them, or use another --output."
        )


def _without_secrets(model: Model) -> Model:
    """Return a model as written to a file: its folder as it was named, not where this machine has it."""
    where = model.name if model.source == "folder" else model.location
    return msgspec.structs.replace(
        model, location=where and redact(where), config=redact_all(model.config)
    )


def _predictions(
    planned: Planned, machine: dict[str, object], probes: list[Probe], earlier: Plan | None
) -> dict[str, Prediction]:
    """Return the predictions of an earlier plan for its cells, and new predictions for new cells.

    A cell that may have been measured is not predicted afterwards.
    """
    before = {cell.id for cell in earlier.cells} if earlier else set()
    new = [cell for cell in planned.cells if cell.id not in before]
    if not new:
        return earlier.predictions if earlier else {}
    past = nearest.past_cells(RESULTS, machine, without=earlier.run if earlier else None)
    place = estimate.here(machine, probes, past)
    predicted = estimate.predictions(new, planned.models, planned.sweep.protocol, place)
    return {**(earlier.predictions if earlier else {}), **predicted}


def _refuse_served(wanted: Sweep, where: Where) -> None:
    """Refuse served cells on other machines: a session writes its requests into the run's folder."""
    given = wanted.axes.backend
    known = {given} if isinstance(given, str) else {*given}
    known &= {*backends.known()}
    if not where.is_here and any(LOAD in backends.options(name) for name in known):
        raise SpecError(
            f"{wanted.name}: has servers under load, which are measured on the machine that has the run's "
            "folder; leave --places out, or put them into a sweep of their own. --gpus works."
        )


def _without_too_wide(
    planned: Planned, machine: dict[str, Any], run: Run, boxes: Boxes | None
) -> Planned:
    """Return the plan with a reason for each cell that needs more GPUs or boxes than there are, or ever were."""
    known = [len(place.units) for place in run.log.places if place.machine["gpus"]]
    here = [len(each.gpus) for each in boxes.heres] if boxes else [len(machine["gpus"])]
    names = {place.name for place in run.log.places}
    names |= {box.name for box in boxes.all} if boxes else {""}
    refused = pins.too_wide(planned.cells, max([*known, *here]), len(names))
    refused = {**refused, **planned.refused}
    if len(refused) == len(planned.cells):
        raise NothingToRun(f"{planned.sweep.name}: nothing to run; {next(iter(refused.values()))}")
    return msgspec.structs.replace(planned, refused=refused)


def _refuse_few_files(planned: Planned, boxes: int) -> None:
    """Refuse to begin if the limit of open files would prevent every worker from starting."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else USUAL_FILES  # noqa: PTH112, PTH208 - names only
    needed = in_use + FILES_OF_A_SWEEP + len({cell.backend for cell in planned.cells})
    needed += FILES_OF_A_BOX * boxes
    if resource.RLIM_INFINITY != allowed < needed:
        raise RunError(
            f"ulimit -n: {allowed} open files are allowed, and this sweep needs {needed}. "
            f"Run 'ulimit -n {needed}' first."
        )


def _refuse_shared(planned: Planned, asked: SweepOptions, boxes: Boxes | None) -> None:
    for box in boxes.all if boxes and not asked.allow_shared else ():
        if box.here and box.here.users:
            raise RunError(
                f"box {box.name}: a GPU is in use by process {', '.join(map(str, box.here.users))}. "
                "Wait until it ends, choose others with --gpus, or measure anyway with --allow-shared."
            )
    if boxes:
        return
    gpu = telemetry.gpu_of(planned.cells)
    if asked.allow_shared or gpu is None:
        return
    if others := gpu.others({os.getpid()}):
        raise RunError(
            f"the GPU is in use by process {', '.join(map(str, others))}. "
            "Wait until it ends, or measure anyway with llmbench sweep --allow-shared."
        )
