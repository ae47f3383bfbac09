"""The `sweep` command: read, plan, measure, and show the table."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from llmbench import backends, report
from llmbench.commands.table import show_table
from llmbench.errors import SpecError
from llmbench.redact import command_line
from llmbench.report.views import dry_run as views_dry_run
from llmbench.run import forecast
from llmbench.run import sweep as run_sweep
from llmbench.spec import overrides


def command(  # noqa: PLR0913, PLR0917 - one parameter a flag
    sweep: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SWEEP]",
            help="A sweep's file, or a name that 'llmbench sweeps' lists; without one, --model says what to run.",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "-o", help="The run's folder; one that exists is continued."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --dry-run --format html: page to write. [default: sweep.html]",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest run of this sweep under results/.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what fits, how long it takes and costs; run nothing."),
    ] = False,
    machine: Annotated[
        str | None, typer.Option(metavar="CHIP", help="With --dry-run: plan for this known chip.")
    ] = None,
    usd_per_gpu_hour: Annotated[
        float | None, typer.Option(help="With --dry-run: price of an hour of one GPU, in dollars.")
    ] = None,
    format: Annotated[
        report.Format, typer.Option(help="With --dry-run: output format.")
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
            help="Catalogue name, NAME@tiny (a scaled-down copy, not that model), folder or hub id; comma list, "
            "repeatable.",
        ),
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Engine; comma list, repeatable.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Engine option, repeatable; 'llmbench backends' lists them.",
        ),
    ] = None,
    tensor_parallel_size: Annotated[
        int | None, typer.Option(help="GPUs that share one model: --option tensor_parallel_size=N.")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="auto (the checkpoint's), float32, bfloat16 or float16; comma list."),
    ] = None,
    batch_size: Annotated[
        list[str] | None, typer.Option(help="Sequences at once: 1,8,64 or 1-64*2.")
    ] = None,
    input_len: Annotated[
        list[str] | None, typer.Option(help="Prompt tokens: 128,1024 or 128-4096*2.")
    ] = None,
    output_len: Annotated[list[str] | None, typer.Option(help="New tokens per sequence.")] = None,
    device: Annotated[
        Literal["cpu", "cuda", "auto"] | None, typer.Option(help="Where to run.")
    ] = None,
    load_format: Annotated[
        Literal["dummy", "safetensors", "auto"] | None,
        typer.Option(
            help="Random or real weights. [default: safetensors for a folder or hub id, else dummy]"
        ),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="A text file to cut prompts from, instead of random tokens.")
    ] = None,
    sessions: Annotated[
        int | None, typer.Option(help="Exact number of sessions (fresh worker processes) per cell.")
    ] = None,
    num_iters: Annotated[
        int | None, typer.Option(help="Fewest timed iterations per session.")
    ] = None,
    num_iters_warmup: Annotated[
        int | None, typer.Option(help="Fewest warm-up iterations per session.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed for prompts, weights and run order.")
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
        bool, typer.Option("--allow-shared", help="Measure on a GPU that others are using.")
    ] = False,
    wait_for_quiet: Annotated[
        bool,
        typer.Option(
            "--wait-for-quiet",
            help="Wait until other processes leave the CPUs and GPUs alone; give up after 10 minutes.",
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
    axes = {
        "model": model,
        "backend": backend,
        "dtype": dtype,
        "batch_size": batch_size,
        "input_len": input_len,
        "output_len": output_len,
    }
    single = {"device": device, "load_format": load_format, "prompts": prompts}
    wanted = overrides.overridden(
        overrides.read(sweep, model),
        axes,
        {key: value for key, value in single.items() if value is not None},
    )
    engine = [*(option or ())]
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
    console = Console(highlight=False, stderr=False)
    if probe and machine:
        raise SpecError(f"--probe: measures this machine, and --machine {machine} is another.")
    if probe:
        run_sweep.probe_first(wanted, console)
    if dry_run:
        destination = report.destination("sweep", format, output)
        made = forecast.forecast(wanted, machine, usd_per_gpu_hour, run_sweep.RESULTS)
        destination.write(views_dry_run.document(made))
        return 0
    _refuse_alone(machine, usd_per_gpu_hour, format, output)
    asked = run_sweep.SweepOptions(
        output_dir,
        resume=resume,
        new_environment=new_environment,
        allow_shared=allow_shared,
        offline=offline,
        run_anyway=run_anyway,
        anonymous=anonymous,
        add=add,
        wait_for_quiet=wait_for_quiet,
    )
    command = command_line(["llmbench", *sys.argv[1:]])
    return run_sweep.sweep(wanted, asked, console, command, show_table)


def _refuse_alone(
    machine: str | None, usd_per_gpu_hour: float | None, format: str, output: Path | None
) -> None:
    """Refuse what means nothing while measuring."""
    given = {"--machine": machine, "--usd-per-gpu-hour": usd_per_gpu_hour, "--output": output}
    names = [name for name, value in given.items() if value is not None]
    names += ["--format"] if format != "terminal" else []
    if names:
        raise SpecError(f"{', '.join(names)}: only works together with --dry-run.")
