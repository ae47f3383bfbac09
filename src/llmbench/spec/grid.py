"""Expansion of a sweep to its grid: checked axes, engines with their options, one cell per point.

Nothing here opens a file, because `plan` has resolved all names; ten thousand cells take a tenth of a second.
"""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from llmbench.errors import NothingToRun, SpecError, did_you_mean
from llmbench.spec import adapters, load, speculation
from llmbench.spec import lengths as spec_lengths
from llmbench.spec.digest import digest_of
from llmbench.spec.load import LIMITS, LOAD, SHARED_PREFIX
from llmbench.spec.sweep import NOT_SAID, PROTOCOL, Cell, slug
from llmbench.spec.yaml import NOUNS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmbench.spec.sweep import Axes, Option, Protocol, Sweep

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")
LOAD_FORMATS = ("dummy", "safetensors")
DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}
"""Other names of the dtypes, accepted."""
ALIASES = {"gpu": "cuda"}
"""Other tools' names for values, known only to suggest ours in an error."""
MOST_TOKENS = 2**31
"""Batch x (input + output) above this cannot be indexed by any engine."""
MOST_CELLS = 100_000
"""A limit against typing errors: each cell takes seconds at least, and a million times more would not fit in
memory."""
MOST_VALUES = 10_000
"""A limit against typing errors: no real axis is longer."""

KNOWN_TO_ITS_OWNER = ("device", "dtype", "load_format")
"""Axes that are not said of a server that was there already, unless the user says them."""
ADDRESS = "url"
"""The option of a server that is there already; it stands in no cell's id in words, which copies keep."""
ONLY_WITH = {
    "lora_merged": "lora",
    "speculative_tokens": "speculative",
    "ngram_max": "speculative",
    "draft_model": "speculative",
    "speculative_anyway": "speculative",
}
"""Options that change nothing unless another one has a value; without it they are left out of a cell."""

ATTACHING = (adapters.LORA, speculation.DRAFT_MODEL)
"""Options that name folders of further weights."""

QUANTIZATION, NONE = "quantization", "none"
"""The option of backends that names how weights are quantised, and its default: as the checkpoint has them."""

T = TypeVar("T")


class TraceFacts(msgspec.Struct, frozen=True):
    """What a cell needs of a trace: its content's digest, its longest prompt and answer, and when it ends."""

    digest: str
    input_len: int
    output_len: int
    last_s: float


class Choices(msgspec.Struct, frozen=True):
    """Resolved names, provided by the planner to keep `expand` free of files."""

    model_digests: Mapping[str, str]
    options: Mapping[str, Mapping[str, object]]
    device: str
    prompt_digests: Mapping[str, str]
    load_formats: Mapping[str, str] = {}
    dtypes: Mapping[str, str] = {}
    replaced: Mapping[tuple[str, str], str] = {}
    quantised: Mapping[str, str] = {}
    traces: Mapping[str, TraceFacts] = {}
    as_stored: frozenset[str] = frozenset()
    listed_lengths: Mapping[str, tuple[int, ...]] = {}
    attached_digests: Mapping[str, str] = {}
    attached_servers: frozenset[str] = frozenset()


def expand(sweep: Sweep, choices: Choices) -> tuple[list[Cell], list[str]]:
    """Return the grid's cells in the order of the axes, and warnings about what was dropped.

    Raises:
        SpecError: an axis has an unknown value; the message says where and suggests one.
        NothingToRun: an axis is empty.

    """
    warn: list[str] = []
    axes = _axes(sweep, warn)
    engines = _engines(sweep.axes, choices.options, warn)
    if not engines or not all(axes.values()):
        empty = ", ".join(name for name, values in axes.items() if not values) or "backend"
        raise NothingToRun(f"{sweep.name}: nothing to run; the axis {empty} is empty.")
    count = len(engines) * math.prod(map(len, axes.values()))
    if count > MOST_CELLS:
        raise SpecError(
            f"{sweep.name}: {count:,} cells exceed the limit of {MOST_CELLS:,}; shorten an axis."
        )
    cells = [
        make_cell(
            sweep.protocol,
            choices,
            backend=backend,
            options=options,
            **dict(zip(axes, point, strict=True)),
        )
        for (backend, options) in engines
        for point in itertools.product(
            *_of_backend(axes, backend, options, choices, sweep.protocol).values()
        )
    ]
    cells.sort(key=lambda cell: axes["model"].index(cell.model))
    return cells, warn


def _axes(sweep: Sweep, warn: list[str]) -> dict[str, list[Any]]:
    axes: dict[str, list[Any]] = {}
    for name in ("model", "device", "dtype", "load_format", "prompts"):
        given = getattr(sweep.axes, name)
        axes[name] = without_repetition(given if isinstance(given, list) else [given], name, warn)
    for name, read in (
        ("batch_size", lengths),
        ("input_len", input_lengths),
        ("output_len", lengths),
    ):
        given = read(getattr(sweep.axes, name), name)
        axes[name] = without_repetition(given, name, warn)
    axes["dtype"] = without_repetition(
        [DTYPE_ALIASES.get(word, word) for word in axes["dtype"]], "dtype", warn
    )
    for name, known in (
        ("dtype", (*DTYPES, "auto")),
        ("load_format", (*LOAD_FORMATS, "auto")),
        ("device", (*DEVICES, "auto")),
    ):
        for word in axes[name]:
            if word not in known:
                raise SpecError(
                    f"{name}: unknown value {word!r}.{did_you_mean(ALIASES.get(word, word), known)}"
                )
    return axes


def _of_backend(
    axes: dict[str, list[Any]],
    backend: str,
    given: Mapping[str, Option],
    choices: Choices,
    protocol: Protocol,
) -> dict[str, list[Any]]:
    """Return the axes of a backend: a load says how many requests are in flight at most, and a trace their lengths."""
    if LOAD not in choices.options[backend]:
        return axes
    options = load.with_defaults(given)
    asked = load.parse(str(options[LOAD]))
    load.extra_keys(str(options["extra"]))
    if not 0 <= float(options[SHARED_PREFIX]) < 1:
        raise SpecError(
            f"{SHARED_PREFIX}: {options[SHARED_PREFIX]} is not a share of a prompt; it is at least 0 and below 1."
        )
    if not 0 <= int(options[load.SHARDS]) <= min(load.MOST_SHARDS, asked.streams):
        raise SpecError(
            f"{load.SHARDS}: {options[load.SHARDS]} client processes for {asked.streams} in flight; give 1 to "
            f"{min(load.MOST_SHARDS, asked.streams)}, or 0 for as many as the load needs."
        )
    if asked.kind == load.MOST and not any(options.get(name) for name in LIMITS):
        raise SpecError(
            f"load: most is the highest rate within limits; give backend {backend} "
            f"{' or '.join(LIMITS)}, in milliseconds."
        )
    flight = {"batch_size": [asked.streams]}
    if asked.kind != load.TRACE:
        return axes | flight
    trace = choices.traces[asked.file]
    need_s = protocol.warmup_budget_s + float(options["window_s"])
    if trace.last_s < need_s * asked.speed:
        raise SpecError(
            f"load: {options[LOAD]} lasts {trace.last_s / asked.speed:g} s; the ramp (warmup_budget_s "
            f"{protocol.warmup_budget_s:g}) and the window (window_s {options['window_s']:g}) need {need_s:g} s."
        )
    return axes | flight | {"input_len": [trace.input_len], "output_len": [trace.output_len]}


def _engines(
    axes: Axes, known: Mapping[str, Mapping[str, object]], warn: list[str]
) -> list[tuple[str, dict[str, Option]]]:
    """Return every backend with every combination of its own options, and of the loads where it has any."""
    backend = axes.backend
    given = backend if isinstance(backend, dict) else dict.fromkeys(words(backend))
    served = [name for name in given if LOAD in known.get(name, {})]
    asked = {LOAD: axes.load, SHARED_PREFIX: axes.shared_prefix}
    asked = {key: value for key, value in asked.items() if value is not None}
    if asked and not served:
        servers = ", ".join(name for name, declared in known.items() if LOAD in declared)
        raise SpecError(
            f"{next(iter(asked))}: {', '.join(given)} serves no requests; the backends that do are {servers}."
        )
    if axes.batch_size != 1 and len(served) == len(given):
        raise SpecError(
            f"batch_size: {' and '.join(served)} serves requests; say with load how many are in flight (load: 8)."
        )
    loads = {name: {LOAD: 1, **asked} for name in served}
    engines: list[tuple[str, dict[str, Option]]] = []
    for name, options in given.items():
        if name not in known:
            raise SpecError(f"backend: unknown backend {name!r}.{did_you_mean(name, known)}")
        lists = {
            key: _option_values(name, key, value, known[name], warn)
            for key, value in {**loads.get(name, {}), **(options or {})}.items()
        }
        engines.extend(
            (name, dict(zip(lists, point, strict=True)))
            for point in itertools.product(*lists.values())
        )
    return engines


def _option_values(
    backend: str, key: str, value: object, known: Mapping[str, object], warn: list[str]
) -> list[Option]:
    where = f"backend.{backend}.{key}"
    if key not in known:
        raise SpecError(f"backend.{backend}: unknown option {key!r}.{did_you_mean(key, known)}")
    values = value if isinstance(value, list) else [value]
    if key == LOAD:
        values = [each for item in values for each in loads(item)]
    for item in values:
        _check_option(where, item, known[key])
    if isinstance(known[key], float):
        values = [float(str(item)) for item in values]  # makes 5 and 5.0 the same cell
    return without_repetition(values, where, warn)


def _check_option(where: str, value: object, declared: object) -> None:
    if isinstance(declared, tuple):
        if value not in declared or type(value) is not type(declared[declared.index(value)]):
            raise SpecError(
                f"{where}: unknown value {value!r}.{did_you_mean(str(value), map(str, declared))}"
            )
    elif type(value) is not type(declared) and not (
        isinstance(declared, float) and type(value) is int
    ):
        raise SpecError(f"{where}: expected {NOUNS[type(declared).__name__]}, got {value!r}.")


def make_cell(
    protocol: Protocol,
    choices: Choices,
    *,
    backend: str,
    options: dict[str, Option],
    **point: object,
) -> Cell:
    """Return the cell at one point of the grid, with its id."""
    declared = choices.options[backend]
    defaults = {
        key: value[0] if isinstance(value, tuple) else value for key, value in declared.items()
    }
    if backend in choices.attached_servers:  # nobody here knows what somebody else's server runs on
        point |= {name: NOT_SAID for name in KNOWN_TO_ITS_OWNER if point[name] == "auto"}
    point["device"] = choices.device if point["device"] == "auto" else point["device"]
    if point["load_format"] == "auto":
        point["load_format"] = choices.load_formats.get(str(point["model"]), "dummy")
    if point["dtype"] == "auto":
        point["dtype"] = _dtype(str(point["model"]), str(point["device"]), choices)
    stored = choices.quantised.get(str(point["model"]))
    if stored and options.get(QUANTIZATION, NONE) == NONE == defaults.get(QUANTIZATION):
        options = {**options, QUANTIZATION: stored}
    facts: dict[str, Any] = {
        **point,
        "backend": backend,
        "options": {
            key: value
            for key, value in sorted(options.items())
            if key == LOAD or (value != defaults[key] and _matters(key, options, defaults))
        },
        "model_digest": choices.model_digests[str(point["model"])],
        **_different_lengths(point, protocol.seed, choices),
    }
    facts |= _attached(facts["options"], choices)
    measured = {
        **facts,
        "prompts": choices.prompt_digests.get(str(point["prompts"]), point["prompts"]),
    }
    if LOAD in options:
        measured["options"] = _by_content(facts["options"], choices)
    digest = digest_of({"cell": measured, "protocol": PROTOCOL, "measuring": protocol.measuring()})
    return msgspec.convert({"id": f"{_slug(facts)}-{digest}", **facts}, Cell)


def _different_lengths(point: Mapping[str, Any], seed: int, choices: Choices) -> dict[str, Any]:
    """Return the lengths of a batch whose prompts differ; empty for one length."""
    asked = point["input_len"]
    if isinstance(asked, int):
        return {}
    each = spec_lengths.of_batch(asked, point["batch_size"], seed, choices.listed_lengths)
    return {"spread": spec_lengths.shown(asked), "input_lens": each, "input_len": max(each)}


def _attached(options: Mapping[str, Option], choices: Choices) -> dict[str, str]:
    """Return what identifies the weights of a cell's draft model and adapters; empty without any."""
    names = (str(options.get(key, "")) for key in ATTACHING)
    found = [choices.attached_digests.get(name, "") for name in names]
    return {"attached_digest": "-".join(filter(None, found))} if any(found) else {}


def _matters(key: str, options: Mapping[str, Option], defaults: Mapping[str, object]) -> bool:
    """Return whether an option can change anything, given the others."""
    if key == speculation.DRAFT_MODEL:
        return options.get(speculation.SPECULATIVE) == speculation.DRAFT
    other = ONLY_WITH.get(key, key)
    return options.get(other, defaults.get(other)) != defaults.get(other)


def _dtype(model: str, device: str, choices: Choices) -> str:
    """Return the dtype of a model's checkpoint, or what replaces it on a device; raise SpecError if it is unknown."""
    if dtype := choices.dtypes.get(model):
        if model in choices.as_stored:
            return dtype
        return choices.replaced.get((device, dtype), dtype)
    absent = "/" in model and not Path(model).expanduser().exists()
    where = ", which is no folder here and not in the hub's cache" if absent else ""
    raise SpecError(
        f"dtype: the checkpoint's is not known for {model!r}{where}; name one, such as dtype: bfloat16, "
        "or llmbench sweep --dtype bfloat16."
    )


def _slug(facts: Mapping[str, object]) -> str:
    options = "-".join(
        f"{key}={_without_folder(str(value)) if key == LOAD else value}"
        for key, value in facts["options"].items()  # type: ignore[attr-defined]
        if key != ADDRESS
    )
    parts = (
        str(facts["model"]).rstrip("/").rsplit("/", 1)[-1],
        facts["backend"],
        facts["dtype"],
        f"b{facts['batch_size']}-i{facts.get('spread', facts['input_len'])}-o{facts['output_len']}",
        options,
    )
    return slug("-".join(str(part) for part in parts if part))


def _by_content(options: Mapping[str, Any], choices: Choices) -> Mapping[str, Any]:
    """Return options of a served cell, with the content of a trace instead of its file."""
    asked = load.parse(str(options[LOAD]))
    if asked.kind != load.TRACE:
        return options
    digest = choices.traces[asked.file].digest
    return {**options, LOAD: f"trace {digest} speed {asked.speed:g}"}


def _without_folder(text: str) -> str:
    """Return a load, with only the name of a trace's file."""
    asked = load.parse(text)
    return text.replace(asked.file, asked.file.rpartition("/")[2]) if asked.file else text


def loads(value: object) -> list[str]:
    """Return the loads that a value names, `8`, `1-64*2` or `8,20/s`; raise SpecError for what is none."""
    named: list[str] = []
    for part in str(value).split(","):
        plain = " ".join(part.split())
        several = re.fullmatch(r"\d+-\d+\S*", plain)
        # A rate is Poisson's unless another process is named: one spelling, and so one id.
        named += map(str, integers(plain, LOAD)) if several else [plain.removeprefix("poisson ")]
    for each in named:
        load.parse(each)
    return named


def integers(text: str, where: str) -> list[int]:
    """Read `1,8,64`, `1 8 64`, `1-64*2` (times) or `128-1024+128` (plus) into whole numbers."""
    values: list[int] = []
    for part in re.split(r"[,\s]+", text.strip()):
        if re.fullmatch(r"\d{1,12}", part):
            values.append(int(part))
        elif match := re.fullmatch(r"(\d{1,12})-(\d{1,12})(?:([*+])(\d{1,6}))?", part):
            values.extend(_range(match, where))
        else:
            raise SpecError(f"{where}: {part!r} is not a whole number or a range such as 1-64*2.")
    return values


def _range(match: re.Match[str], where: str) -> list[int]:
    first, last, by, step = int(match[1]), int(match[2]), match[3] or "+", int(match[4] or 1)
    if last < first or (by == "+" and step < 1) or (by == "*" and (step < 2 or first < 1)):
        raise SpecError(f"{where}: {match[0]!r} is an empty or endless range.")
    values = [first]
    while len(values) <= MOST_VALUES:
        following = values[-1] * step if by == "*" else values[-1] + step
        if following > last:
            return values
        values.append(following)
    raise SpecError(f"{where}: {match[0]!r} has over {MOST_VALUES} values.")


def words(value: object) -> list[str]:
    """Return one word or a list of words as a list without repetitions, in order."""
    return list(dict.fromkeys(value if isinstance(value, list) else [str(value)]))


def lengths(value: int | str | list[int], where: str) -> list[int]:
    """Return an axis of whole numbers as a list; raise SpecError for values no engine can run."""
    values = (
        value
        if isinstance(value, list)
        else integers(value, where)
        if isinstance(value, str)
        else [value]
    )
    for number in values:
        if not 1 <= number < MOST_TOKENS:
            raise SpecError(
                f"{where}: {number} is not possible; it must be at least 1 and below {MOST_TOKENS:,}."
            )
    return values


def input_lengths(value: int | str | list[int | str], where: str) -> list[int | str]:
    """Return the axis of prompts as whole numbers, and as the texts that name prompts of different lengths."""
    found: list[int | str] = []
    for item in value if isinstance(value, list) else [value]:
        whole = isinstance(item, str) and bool(spec_lengths.file_of(item))
        parts = [item] if whole or not isinstance(item, str) else re.split(r"[,\s]+", item.strip())
        for part in parts:
            spread = isinstance(part, str) and spec_lengths.is_spread(part)
            found.extend([str(part)] if spread else lengths(part, where))
    return found


def without_repetition(values: list[T], where: str, warn: list[str]) -> list[T]:
    """Drop repeated axis values and say so in `warn`."""
    unique = list(dict.fromkeys(values))
    if len(unique) < len(values):
        repeated = sorted({str(value) for value in values if values.count(value) > 1})
        warn.append(f"{where}: {', '.join(repeated)} given more than once; measured once.")
    return unique
