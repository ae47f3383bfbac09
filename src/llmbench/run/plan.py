"""Planning of a sweep: names are resolved, cells expanded, and impossible ones refused with a reason.

Planning reads files and the driver's list of GPUs; it imports no engine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import replace

from llmbench import backends, files
from llmbench.errors import LoadFailed, NothingToRun, SpecError
from llmbench.machine import chips, gpus, info, nvidia
from llmbench.measure import ask
from llmbench.models import checkpoint, resolve
from llmbench.numbers import plural
from llmbench.predict.estimate import COMPUTING
from llmbench.redact import redact, without_home, without_secrets
from llmbench.spec import adapters, grid, speculation
from llmbench.spec import lengths as spec_lengths
from llmbench.spec import load as spec_load
from llmbench.spec import sweep as spec_sweep
from llmbench.spec.digest import digest_of

if TYPE_CHECKING:
    from llmbench.machine.chips import Chip
    from llmbench.models.resolve import Model
    from llmbench.serve.trace import Trace
    from llmbench.spec.sweep import Cell, Sweep


MOST_PROMPT_BYTES = 2**26
"""The size limit of a prompts file, which is sent to every worker."""


RUN_GGUF = (("llamacpp", "safetensors"), ("fake", "safetensors"), ("fake", "dummy"))
"""The backends, and formats of weights, with which a GGUF file can be a cell's model."""


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A resolved sweep; `refused` maps the ids of cells that cannot run to the reasons."""

    sweep: spec_sweep.Sweep
    cells: list[spec_sweep.Cell]
    models: dict[str, resolve.Model]
    refused: dict[str, str]
    warnings: list[str]


def plan(
    sweep: Sweep, *, chip: Chip | None = None, machine: dict[str, Any] | None = None
) -> Planned:
    """Resolve and expand a sweep; raise SpecError or NothingToRun with one line if it is invalid.

    `chip` is a GPU to plan for, which may be absent: `auto` then means it, and no driver is queried. `machine` are the
    facts of another machine to plan for.
    """
    given = sweep.axes.model if isinstance(sweep.axes.model, list) else [sweep.axes.model]
    models = _models(given)
    prompts = [without_home(name) for name in grid.words(sweep.axes.prompts)]
    axes = replace(sweep.axes, model=list(map(redact, given)), prompts=prompts)
    sweep = replace(sweep, name=redact(sweep.name), why=redact(sweep.why), axes=axes)
    auto = chip is None and "auto" in grid.words(sweep.axes.device)
    device = _device(machine) if auto else "cpu"
    dtypes = {name: known for name, resolved in models.items() if (known := resolved.dtype)}
    replaced = _replaced(sweep, chip, device, machine)
    traces = _traces(sweep.axes)
    attached = _attached(sweep.axes)
    as_stored = frozenset(name for name in models if resolve.is_gguf(models[name]))
    choices = grid.Choices(
        model_digests={name: resolved.digest for name, resolved in models.items()},
        options={name: backends.options(name) for name in backends.known()},
        load_formats={name: real_or_random(resolved) for name, resolved in models.items()},
        device="cuda" if chip else device,
        dtypes=dtypes,
        traces={
            name: grid.TraceFacts(of.digest, *of.longest, of.last_s) for name, of in traces.items()
        },
        quantised={
            name: scheme
            for name, resolved in models.items()
            if (scheme := checkpoint.quantisation(resolved.config))
        },
        as_stored=as_stored,
        listed_lengths=_listed_lengths(sweep.axes),
        attached_digests={name: each.digest for name, each in attached.items()},
        attached_servers=frozenset(filter(backends.attached, backends.known())),
        replaced={kinds: dtype for kinds, (dtype, _) in replaced.items()},
        prompt_digests={
            name: digest_of(text(name)) for name in prompts if name != spec_sweep.SYNTHETIC
        },
    )
    cells, warnings = grid.expand(sweep, choices)
    _refuse_secrets(cells)
    if chip is None and machine is None:
        warnings += _check_device(cells, grid.words(sweep.axes.device))
        warnings += [f"Not installed here: {each}" for each in not_installed(cells)]
    cells, doubles = _distinct(cells)
    refused = _refused(cells, models, attached)
    if len(refused) == len(cells):
        raise NothingToRun(f"{sweep.name}: nothing to run; {next(iter(refused.values()))}")
    changeable = {name: dtype for name, dtype in dtypes.items() if name not in as_stored}
    computed = {cell.model for cell in cells if cell.backend in COMPUTING}
    asked, unknown = ask.with_counts({name: models[name] for name in models if name in computed})
    return Planned(
        sweep=sweep,
        cells=cells,
        models={**models, **asked},
        refused=refused,
        warnings=[
            *warnings,
            *_left_out(traces),
            *doubles,
            *_told(cells, changeable, replaced),
            *unknown,
        ],
    )


class Attached(NamedTuple):
    """What an option names besides the model: the weights' digest, and a draft model or adapters."""

    digest: str
    draft: Model | None
    adapters: list[adapters.Adapter]


def _attached(axes: spec_sweep.Axes) -> dict[str, Attached]:
    """Return the draft models and adapters that options name, by their text; raise SpecError for what is not there."""
    found: dict[str, Attached] = {}
    for key in grid.ATTACHING:
        for name in map(str, _values_of(axes, key)):
            if name.strip():
                found[name] = _draft(name) if key == speculation.DRAFT_MODEL else _adapters(name)
    return found


def _draft(name: str) -> Attached:
    folder = os.path.expanduser(name)  # noqa: PTH111 - as in `text`
    if not os.path.lexists(f"{folder}/config.json"):
        raise SpecError(f"{speculation.DRAFT_MODEL}: {name!r} is not the folder of a checkpoint.")
    draft = resolve.resolve(name)
    return Attached(draft.digest, draft, [])


def _adapters(names: str) -> Attached:
    try:
        return Attached(adapters.digest(names), None, adapters.of({adapters.LORA: names}))
    except LoadFailed as error:
        raise SpecError(str(error)) from error


def _listed_lengths(axes: spec_sweep.Axes) -> dict[str, tuple[int, ...]]:
    """Return the lengths in every file that input_len names, by the file's name."""
    asked = axes.input_len if isinstance(axes.input_len, list) else [axes.input_len]
    named = {spec_lengths.file_of(str(each)) for each in asked}
    return {name: spec_lengths.read(name) for name in named if name}


def _values_of(axes: spec_sweep.Axes, option: str) -> list[Any]:
    """Return every value of an option, of all backends."""
    backends_of = axes.backend if isinstance(axes.backend, dict) else {}
    given = [(options or {}).get(option) for options in backends_of.values()]
    return [
        item for value in given for item in (value if isinstance(value, list) else [value]) if item
    ]


def _traces(axes: spec_sweep.Axes) -> dict[str, Trace]:
    """Return every trace that a load names, by its file's name."""
    given = axes.load if isinstance(axes.load, list) else [axes.load]
    each = [*given, *_values_of(axes, spec_load.LOAD)]
    asked = {spec_load.parse(text).file for item in each if item for text in grid.loads(item)}
    if not any(asked):
        return {}
    from llmbench.serve import trace  # noqa: PLC0415 - few sweeps play one, and it loads numpy

    return {name: trace.read(name) for name in asked if name}


def _left_out(traces: dict[str, Trace]) -> list[str]:
    """Return how many requests of each trace cannot be sent."""
    return [
        f"load: trace {name}: left out {plural(of.left_out, 'request')} without a prompt or an answer."
        for name, of in traces.items()
        if of.left_out
    ]


def _refused(
    cells: list[Cell], models: dict[str, Model], attached: dict[str, Attached]
) -> dict[str, str]:
    """Return why cells cannot run, by id."""
    asked = {cell.model for cell in cells if cell.backend == "transformers"}
    elsewhere = {name for name in asked if _only_elsewhere(models[name])}
    refused = {}
    for cell in cells:
        model = models[cell.model]
        if cell.backend == "transformers" and cell.model in elsewhere:
            refused[cell.id] = _without_class(cell, model)
        elif (
            why := _of_no_use(cell, model)
            or _lengths_why_not(cell)
            or _not_with(cell, model, attached)
        ):
            refused[cell.id] = f"{cell.where()}: {why}."
        elif reason := _impossible(cell, model):
            refused[cell.id] = reason
    return refused


def _device(machine: dict[str, Any] | None) -> str:
    """Return the meaning of `auto` on a machine, this one if None."""
    if machine is None:
        return info.device()
    return "cuda" if machine["gpus"] else "cpu"


def _replaced(
    sweep: Sweep, chip: Chip | None, device: str, machine: dict[str, Any] | None
) -> dict[tuple[str, str], tuple[str, str]]:
    """Return, by device and checkpoint's dtype, what `auto` takes instead, and why.

    Two cores of a Xeon with instructions for both multiplied 128 rows by 4,096 x 4,096 in 16 ms in bfloat16, and in
    61 ms in float16.
    """
    if "auto" not in grid.words(sweep.axes.dtype):
        return {}
    replaced = {("cpu", "float16"): ("bfloat16", "CPUs compute float16 slowly")}
    if chip is None:
        cuda = "cuda" in (device, *grid.words(sweep.axes.device))
        found = chips.devices((machine or info.machine())["gpus"]) if cuda else []
        chip = next((each.chip for each in found if each.chip), None)
    if chip is not None and chip.dense_tflops and "bfloat16" not in chip.dense_tflops:
        replaced["cuda", "bfloat16"] = ("float16", f"{chip.name} has no bfloat16")
    return replaced


def _told(
    cells: list[Cell], dtypes: dict[str, str], replaced: dict[tuple[str, str], tuple[str, str]]
) -> list[str]:
    """Return which models are measured in another dtype than their checkpoint's, and why."""
    told = []
    for (device, stored), (dtype, why) in replaced.items():
        here = {
            cell.model
            for cell in cells
            if cell.device == device and cell.dtype != spec_sweep.NOT_SAID
        }
        names = [name for name in dtypes if name in here and dtypes[name] == stored]
        if names:
            told.append(f"{why}: {', '.join(names)} in {dtype}.")
    return told


def _models(given: list[str]) -> dict[str, Model]:
    """Return the models by their recorded names, which have no secrets or home folders."""
    models: dict[str, Model] = {}
    for name in dict.fromkeys(map(without_home, given)):
        shown_name = redact(name)
        if shown_name in models:
            raise SpecError(
                f"model: two models have the same name {shown_name!r} once their secrets are removed."
            )
        models[shown_name] = replace(resolve.resolve(name), name=shown_name)
    return models


def _refuse_secrets(cells: list[Cell]) -> None:
    """Refuse secrets in cells, which would be written to every record and into file names."""
    texts = {("prompts", cell.prompts) for cell in cells}
    texts |= {
        (f"{cell.backend}: {key}", text)
        for cell in cells
        for key, text in cell.options.items()
        if isinstance(text, str)
    }
    for where, text in texts:
        if without_secrets(text) != text:
            raise SpecError(
                f"{where}: contains a secret, which every record would repeat. Remove it from the sweep."
            )


def real_or_random(model: Model) -> str:
    """Return the meaning of `load_format: auto`: real weights for a folder or hub id."""
    return "dummy" if model.source == "catalogue" else "safetensors"


def text(prompts: str) -> str:
    """Return the text of a prompts file."""
    try:
        path = os.path.expanduser(prompts)  # noqa: PTH111 - pathlib raises where there is no home
        return files.read_text(Path(path), MOST_PROMPT_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else _no_text(error)
        raise SpecError(
            f"prompts: {prompts!r}: {reason}. Give a text file, or {spec_sweep.SYNTHETIC!r}."
        ) from error


def _no_text(error: ValueError) -> str:
    return "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "is not a file name"


def not_installed(cells: list[Cell]) -> list[str]:
    """Return, for each backend or option that needs what is not installed, what that is and how to install it."""
    schemes = {
        (cell.backend, str(cell.options.get(grid.QUANTIZATION, grid.NONE))): None for cell in cells
    }
    missing = dict.fromkeys(backends.missing(*each) for each in schemes)
    return [each for each in missing if each]


def _check_device(cells: list[Cell], asked: list[str]) -> list[str]:
    """Refuse CUDA where there is no GPU to try; return what to say where a GPU cannot be seen or used."""
    cuda = any(cell.device.startswith("cuda") for cell in cells)
    why = gpus.trouble()
    if cuda and info.device() != "cuda":
        raise SpecError(
            f"device: 'cuda' was asked for, but no GPU can be used here ({why or f'NVML says: {nvidia.error()}'})."
            " Use device: cpu, or llmbench sweep --device cpu."
        )
    if why is None:
        return []
    if cuda and gpus.handles():
        return [f"Not every GPU can be used: {why}."]
    if cuda:
        return [f"Clocks, power and throttling will not be seen: {why}."]
    return [f"A GPU is here, but auto means cpu: {why}."] if "auto" in asked else []


def _distinct(cells: list[Cell]) -> tuple[list[Cell], list[str]]:
    """Drop repeated cells, such as a default and the same value given explicitly."""
    unique = {cell.id: cell for cell in reversed(cells)}
    kept = [cell for cell in cells if unique.get(cell.id) is cell]
    dropped = plural(len(cells) - len(kept), "cell")
    told = (
        f"Asked for twice, and measured once: {dropped}"
        " (an option at its default, or auto next to the dtype that it means)."
    )
    return kept, [told] if len(kept) < len(cells) else []


def _impossible(cell: Cell, model: Model) -> str:
    """Return why no engine can run this cell; empty if one may."""
    scheme = checkpoint.quantisation(model.config)
    asked = cell.options.get(grid.QUANTIZATION, scheme)
    if scheme and asked != scheme:
        return (
            f"{cell.where()}: the weights of {model.name} are quantised already ({scheme}); leave the option "
            "quantization out, or name the unquantised model."
        )
    drawn = cell.load_format == "dummy" and cell.backend == "transformers"
    if scheme and drawn and scheme not in backends.options(cell.backend)[grid.QUANTIZATION]:  # type: ignore[operator]
        return (
            f"{cell.where()}: the weights of {model.name} are quantised ({scheme}), and random ones would not be; "
            "use its real weights, or a configuration without quantization_config."
        )
    tokens = cell.input_len + cell.output_len
    # An encoder and its decoder each count positions from zero.
    apart = model.config.get("is_encoder_decoder")
    longest = max(cell.input_len, cell.output_len) if apart else tokens
    if model.max_positions and longest > model.max_positions:
        return (
            f"{cell.where()}: {longest} tokens exceed the model's {model.max_positions} positions."
        )
    if cell.batch_size * tokens >= grid.MOST_TOKENS:
        return f"{cell.where()}: {cell.batch_size * tokens:,} tokens are more than any engine can index."
    return ""


def _of_no_use(cell: Cell, model: Model) -> str:
    """Return why a cell's engine and inputs do not go together; empty if they do."""
    if resolve.is_gguf(model) and (cell.backend, cell.load_format) not in RUN_GGUF:
        return (
            f"{model.name} is a GGUF file, whose own weights the backend llamacpp runs; for another engine name the "
            "checkpoint that it was made from"
        )
    return speculation.why_not(
        cell.backend,
        cell.options,
        cell.batch_size,
        prompts=cell.prompts == spec_sweep.SYNTHETIC,
        weights=cell.load_format == "dummy",
    )


def _lengths_why_not(cell: Cell) -> str:
    """Return why a batch of different lengths cannot be measured; empty if it can, or for one length."""
    if not cell.spread:
        return ""
    able = [name for name in backends.known() if backends.mixes_lengths(name)]
    if spec_load.LOAD in cell.options:
        return "the requests of a load have different lengths by a trace: load: trace FILE"
    if cell.backend not in able:
        return (
            f"{cell.backend} runs prompts of one length in a batch, because it would pad the others; the backends "
            f"that run different lengths without padding are {', '.join(able)}"
        )
    if len(cell.input_lens) < cell.batch_size:
        return f"the file lists {len(cell.input_lens)} lengths, fewer than the batch has prompts"
    return ""


def _not_with(cell: Cell, model: Model, attached: dict[str, Attached]) -> str:
    """Return why a cell's draft model or adapters do not go with its model and backend; empty if they do."""
    if found := attached.get(str(cell.options.get(adapters.LORA, ""))):
        return adapters.why_not(cell.backend, found.adapters)
    found = attached.get(str(cell.options.get(speculation.DRAFT_MODEL, "")))
    draft = found.draft if found else None
    if draft is None or cell.options.get(speculation.SPECULATIVE) != speculation.DRAFT:
        return ""
    if None not in (draft.vocab_size, model.vocab_size) and draft.vocab_size != model.vocab_size:
        return f"the draft model has {draft.vocab_size:,} words and the model {model.vocab_size:,}; both need the same"
    tokens = cell.input_len + cell.output_len
    if draft.max_positions and tokens > draft.max_positions:
        return f"{tokens} tokens exceed the draft model's {draft.max_positions} positions"
    return ""


def _only_elsewhere(model: Model) -> bool:
    """Return whether a model's entry names engines, and transformers is not one of them."""
    if model.source != "catalogue":
        return False
    known = resolve.entry(model.name.partition(resolve.AT)[0]).engines
    return known.transformers is None and bool(known.vllm)


def _without_class(cell: Cell, model: Model) -> str:
    return f"{cell.where()}: transformers has no class for {model.model_type}; {model.name} names vllm as its engine."
