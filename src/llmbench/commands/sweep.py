"""The `sweep` command: read, plan, measure, and show the table."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from llmbench import backends, report
from llmbench.commands.options import (
    Price,
    UsdPerGpuHour,
    UsdPerHour,
    of_backends,
    of_chips,
    of_models,
    of_sweeps,
)
from llmbench.errors import SpecError
from llmbench.models import resolve
from llmbench.redact import command_line
from llmbench.results import store
from llmbench.run import sweep as run_sweep
from llmbench.spec import example as spec_example
from llmbench.spec import overrides
from llmbench.spec.sweep import Axes, Protocol, Sweep

if TYPE_CHECKING:
    from llmbench.report.document import Document
    from llmbench.results.trust import Trust

EXIT_CODES = (
    "Exit codes: 0 if every planned session is valid, 1 if the numbers have to be measured again, because every "
    "interval is wider than its value or other work disturbed every cell; 2 after a mistake, 3 if sessions failed, 4 "
    "if a record could not be written, 129, 130 or 143 if a signal ended it."
)
KEYS = spec_example.defaults(Axes) | spec_example.defaults(Protocol)


def otherwise(value: object) -> str:
    """Return the default of a flag that replaces a key of the sweep's file, for its help."""
    return f"[default: the file's, else {value}]"


def command(  # noqa: PLR0913, PLR0917 - one parameter a flag
    sweep: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SWEEP]",
            autocompletion=of_sweeps,
            help="A sweep's file, a name that 'llmbench sweeps' lists, or a model; without one, --model says what to "
            "run.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="The run's folder; one that exists is continued. With --dry-run --format html, the page. "
            "[default: a new folder under results/; sweep.html]",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest run of this sweep under results/.")
    ] = False,
    example: Annotated[
        bool,
        typer.Option("--example", help="Print a sweep file with every key and its meaning."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what fits, how long it takes and costs; run nothing."),
    ] = False,
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="CHIP[*N]",
            autocompletion=of_chips,
            help="With --dry-run: plan for this known chip, or N of them. [default: this machine]",
        ),
    ] = None,
    usd_per_hour: UsdPerHour = None,
    usd_per_gpu_hour: UsdPerGpuHour = None,
    price: Price = None,
    format: Annotated[
        report.CheckedFormat,
        typer.Option(
            help="Format of the table or of the plan; junit is XML for CI systems. In all but terminal, progress "
            "goes to standard error. html: only with --dry-run."
        ),
    ] = "terminal",
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Measure the machine's ceilings first, if none are kept."),
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=of_models,
            help="Catalogue name, NAME@tiny (a scaled-down copy, not that model), folder or hub id; comma list, "
            "repeatable. Required without a file.",
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=of_backends,
            help=f"Engine; comma list, repeatable. {otherwise(KEYS['backend'])}",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Engine option, repeatable; 'llmbench backends' lists them and their defaults.",
        ),
    ] = None,
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option(
            help=f"GPUs that share one model: --option tensor_parallel_size=N. {otherwise(1)}"
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            help=f"auto (the checkpoint's), float32, bfloat16 or float16; comma list. {otherwise(KEYS['dtype'])}"
        ),
    ] = None,
    batch_size: Annotated[
        list[str] | None,
        typer.Option(help=f"Sequences at once: 1,8,64 or 1-64*2. {otherwise(KEYS['batch_size'])}"),
    ] = None,
    input_len: Annotated[
        list[str] | None,
        typer.Option(
            help="Prompt tokens: 128,1024 or 128-4096*2; 128-1024@uniform for prompts of different lengths. "
            f"{otherwise(KEYS['input_len'])}"
        ),
    ] = None,
    output_len: Annotated[
        list[str] | None,
        typer.Option(help=f"New tokens per sequence. {otherwise(KEYS['output_len'])}"),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Measure the server that listens there: --backend server --option url=URL. Its key is read from "
            "LLMBENCH_API_KEY.",
        ),
    ] = None,
    load: Annotated[
        list[str] | None,
        typer.Option(
            help="Load on a server: streams of a closed loop (8, 1-64*2) or requests a second (20/s, constant 20/s, "
            f"gamma 20/s cv 2), a trace (trace FILE), or most; comma list. {otherwise(1)}"
        ),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda", "auto"] | None,
        typer.Option(help=f"Where to run. {otherwise(KEYS['device'])}"),
    ] = None,
    load_format: Annotated[
        Literal["dummy", "safetensors", "auto"] | None,
        typer.Option(
            help=f"Random or real weights; auto is real ones for a folder or hub id. {otherwise(KEYS['load_format'])}"
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help=f"A text file to cut prompts from, or synthetic: random tokens. {otherwise(KEYS['prompts'])}"
        ),
    ] = None,
    sessions: Annotated[
        int | None,
        typer.Option(
            help="Exact number of sessions (fresh worker processes) per cell. "
            + otherwise(f"{KEYS['sessions']} to {KEYS['max_sessions']}")
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="End when every cell has had this many sessions; the same command with -o goes on. "
            "[default: as many as needed]",
        ),
    ] = None,
    turns: Annotated[str, typer.Option(hidden=True)] = "",
    num_iters: Annotated[
        int | None,
        typer.Option(help=f"Fewest timed iterations per session. {otherwise(KEYS['iterations'])}"),
    ] = None,
    num_iters_warmup: Annotated[
        int | None,
        typer.Option(help=f"Fewest warm-up iterations per session. {otherwise(KEYS['warmup'])}"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help=f"Seed for prompts, weights and run order. {otherwise(KEYS['seed'])}"),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a checkpoint.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load .bin weights, which can run code.")
    ] = False,
    run_anyway: Annotated[
        bool,
        typer.Option(
            "--run-anyway",
            help="Run cells predicted not to fit, or larger than one that ran out of memory, too.",
        ),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use nothing from the network.")
    ] = False,
    new_environment: Annotated[
        bool,
        typer.Option(
            "--new-environment",
            help="Continue a run although the machine or a package has changed.",
        ),
    ] = False,
    allow_shared: Annotated[
        bool,
        typer.Option("--allow-shared", help="Measure although others use the GPU or the CPUs."),
    ] = False,
    wait_for_quiet: Annotated[
        bool,
        typer.Option(
            "--wait-for-quiet",
            help="Wait until other processes leave the CPUs and GPUs alone; give up after 10 minutes.",
        ),
    ] = False,
    gpus: Annotated[
        str,
        typer.Option(
            metavar="all|N,N",
            help="Measure on all GPUs of a box at once, or on these; see docs/scale.md. [default: one at a time]",
        ),
    ] = "",
    places: Annotated[
        str,
        typer.Option(
            metavar="WAY[:REST]",
            help="Measure on other boxes: ssh:A,B, slurm, ray[:ADDRESS], or command:TEMPLATE with {host}. "
            "[default: this machine]",
        ),
    ] = "",
    hosts: Annotated[str, typer.Option(metavar="A,B", help="The hosts of --places command:.")] = "",
    move: Annotated[
        bool,
        typer.Option(
            "--move",
            help="Measure cells anew elsewhere whose GPU is not there any more; their earlier sessions stop counting.",
        ),
    ] = False,
    add: Annotated[
        bool, typer.Option("--add", help="Continue a run although the grid of cells has changed.")
    ] = False,
    anonymous: Annotated[
        bool,
        typer.Option(
            "--anonymous",
            help="Write no paths, command line, logs, or names of processes and users.",
        ),
    ] = False,
) -> int:
    """Measure every cell of a sweep and keep each result as it comes."""
    if example:
        declared = {name: backends.options(name) for name in backends.known()}
        meanings = {name: backends.meanings(name) for name in declared}
        sys.stdout.write(spec_example.example(declared, meanings))
        return 0
    axes = {
        "model": model,
        "backend": backend,
        "dtype": dtype,
        "batch_size": batch_size,
        "input_len": input_len,
        "output_len": output_len,
    }
    single: dict[str, object] = {"device": device, "load_format": load_format, "prompts": prompts}
    wanted = overrides.overridden(
        wanted_by(sweep, model),
        axes,
        {key: value for key, value in single.items() if value is not None}
        | ({"load": overrides.split(load)} if load else {}),
    )
    engine = [*(option or ())]
    if server is not None:
        _refuse_no_server(server, backend, engine)
        wanted = overrides.overridden(wanted, {"backend": ["server"]}, {})
        engine.append(f"url={server}")
    if tensor_parallel_size is not None:
        engine.append(f"tensor_parallel_size={tensor_parallel_size}")
    declared = {name: backends.options(name) for name in backends.known()} if engine else {}
    wanted = overrides.with_options(wanted, engine, declared)
    measuring = {
        "iterations": num_iters,
        "warmup": num_iters_warmup,
        "seed": seed,
        "allow_remote_code": trust_remote_code or None,
        "allow_pickle": allow_pickle or None,
    }
    changes = {key: value for key, value in measuring.items() if value is not None}
    if sessions is not None:
        changes |= {"sessions": sessions, "max_sessions": sessions}
    wanted = overrides.with_protocol(wanted, changes)
    console = Console(highlight=False, stderr=format != "terminal" and not dry_run)
    if probe and machine:
        raise SpecError(f"--probe: measures this machine, and --machine {machine} is another.")
    if probe:
        run_sweep.probe_first(wanted, console)
    where = run_sweep.Where(places, hosts, gpus, move=move).over(wanted)
    if dry_run:
        destination = _destination(format, output)
        asked_price = (usd_per_hour, usd_per_gpu_hour, price)
        destination.write(_forecast(wanted, machine, asked_price, where))
        return 0
    _refuse_alone(
        {
            "--machine": machine,
            "--usd-per-hour": usd_per_hour,
            "--usd-per-gpu-hour": usd_per_gpu_hour,
            "--price": price,
            "--format html": format if format == "html" else None,
        }
    )
    asked = run_sweep.SweepOptions(
        output,
        resume=resume,
        new_environment=new_environment,
        allow_shared=allow_shared,
        offline=offline,
        run_anyway=run_anyway,
        anonymous=anonymous,
        add=add,
        wait_for_quiet=wait_for_quiet,
        rounds=rounds,
        turns=turns,
        where=where,
    )
    command = command_line(["llmbench", *sys.argv[1:]])

    def show(folder: Path, console: Console) -> "Trust | None":
        from llmbench.commands import table  # noqa: PLC0415 - only now, so that measuring begins soon

        return table.show_table(folder, console, format)

    return run_sweep.sweep(wanted, asked, console, command, show)


def _refuse_no_server(url: str, backend: list[str] | None, options: list[str]) -> None:
    """Refuse what is no server's address, and an engine or another address beside it."""
    if not url.startswith(("http://", "https://")):
        raise SpecError(f"--server: {url!r} is not a URL; write http://HOST:PORT.")
    if backend:
        raise SpecError(
            f"--backend {','.join(backend)}: --server measures whatever listens there; leave one of them out."
        )
    if any(option.startswith("url=") for option in options):
        raise SpecError(f"--option url: --server {url} says it already; leave one of them out.")


def _destination(format: report.CheckedFormat, output: Path | None) -> report.Destination:
    if format == "junit":
        raise SpecError("--format junit: a plan is no test; leave out --dry-run.")
    return report.destination("sweep", format, output if format == "html" else None)


def _forecast(
    wanted: Sweep,
    machine: str | None,
    price: tuple[float | None, float | None, str | None],
    where: run_sweep.Where,
) -> "Document":
    """Return the forecast of a sweep on this machine, a chip, or the boxes that answer now."""
    from llmbench.cost.prices import PriceOptions  # noqa: PLC0415 - measuring needs none of these
    from llmbench.report.views import dry_run  # noqa: PLC0415
    from llmbench.run import forecast  # noqa: PLC0415

    if machine and (where.places or where.gpus):
        raise SpecError(
            f"--machine {machine}: leave out --places and --gpus, or the chip; CHIP*N are N GPUs."
        )
    with run_sweep.joined(wanted, where) as boxes:
        here = boxes.heres if boxes else []
        alone = not where.gpus
        asked_price = PriceOptions(*price)
        made = forecast.forecast(wanted, machine, asked_price, store.RESULTS, here, alone=alone)
        made.planned.warnings.extend(boxes.refused if boxes else ())
    return dry_run.document(made)


def wanted_by(sweep: Path | str | None, model: list[str] | None = None) -> Sweep:
    """Return the sweep that a file, a name or a model means; raise SpecError for what is none of them."""
    if sweep is None:
        return overrides.read(None, model)
    if resolve.is_model(str(sweep)):
        if model:
            raise SpecError(
                f"sweep: {sweep} is a model too; name all in one place: --model {sweep},{','.join(model)}."
            )
        return overrides.read(None, [str(sweep)])
    return overrides.read(Path(sweep), model)


def _refuse_alone(given: dict[str, object]) -> None:
    """Refuse what means nothing while measuring."""
    if names := [name for name, value in given.items() if value is not None]:
        raise SpecError(f"{', '.join(names)}: only works together with --dry-run.")
