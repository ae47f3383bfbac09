"""Failures to load a model, each as one line with the reason and the remedy.

Exceptions without a row in the table below, such as out of memory, are passed on unchanged.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import transformers

from llmbench.errors import LoadFailed, Unsupported
from llmbench.redact import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmbench.results.record import Job


class LoadErrorRule(NamedTuple):
    """A failure, known by its class name and a part of its text, and the message to print instead."""

    kind: str
    text: str
    line: str
    means: type[LoadFailed | Unsupported] = LoadFailed


ELSEWHERE = "download it first, name a local folder, or use --load-format dummy."
REASONS = (
    LoadErrorRule(
        "GatedRepoError", "", "{where} is gated: accept its terms on the hub and set HF_TOKEN."
    ),
    LoadErrorRule(
        "RevisionNotFoundError",
        "",
        "{where}: the hub has no such revision; check the option `revision`.",
    ),
    LoadErrorRule(
        "RepositoryNotFoundError",
        "",
        "{where} is not on the hub, or it is private; set HF_TOKEN to read a private one.",
    ),
    LoadErrorRule(
        "LocalEntryNotFoundError",
        "",
        "{where} is not in the local cache and the hub cannot be reached: " + ELSEWHERE,
    ),
    LoadErrorRule(
        "OfflineModeIsEnabled",
        "",
        "{where} is not in the local cache and the hub is switched off: " + ELSEWHERE,
    ),
    LoadErrorRule("ConnectError", "", "{where}: the hub cannot be reached: " + ELSEWHERE),
    LoadErrorRule("HFValidationError", "", "{where} is neither a folder nor a hub id."),
    LoadErrorRule(
        "SafetensorError",
        "",
        "{where}: a weight file is truncated or damaged ({detail}); download it again.",
    ),
    LoadErrorRule(
        "UnpicklingError",
        "",
        "{where}: the pickled weights are damaged or contain more than tensors; none of their code was run"
        " ({detail}). Convert them to safetensors.",
    ),
    LoadErrorRule(
        "JSONDecodeError", "", "{where}: a JSON file of the checkpoint is damaged ({detail})."
    ),
    LoadErrorRule(
        "StrictDataclassError", "", "{where}: the configuration cannot be built: {detail}"
    ),
    LoadErrorRule(
        "ValueError",
        "custom code",
        "{where} needs its own Python code, which was not run; use --trust-remote-code to run it.",
    ),
    LoadErrorRule(
        "ValueError",
        "does not recognize this architecture",
        "transformers {version} does not support the architecture of {where}; try a newer version.",
        Unsupported,
    ),
    LoadErrorRule(
        "ValueError",
        "Unrecognized model",
        "{where}: config.json does not name a model_type.",
        Unsupported,
    ),
    LoadErrorRule(
        "ImportError",
        "FlashAttention",
        "attn_implementation={attention}: {detail} Use sdpa or eager instead.",
        Unsupported,
    ),
    LoadErrorRule(
        "ImportError", "", "{where} needs a package that is not installed: {detail}", Unsupported
    ),
    LoadErrorRule(
        "RuntimeError",
        "ignore_mismatched_sizes",
        "{where}: the shapes of the weights do not match the configuration.",
    ),
    LoadErrorRule(
        "AssertionError",
        "adding_idx",
        "{where}: its padding id is beyond its vocabulary: {detail}",
    ),
    LoadErrorRule(
        "FileNotFoundError", "", "{where}: a file that belongs to the weights is missing: {detail}"
    ),
    LoadErrorRule(
        "OSError",
        "file named",
        "{where} has no safetensors weights; use --allow-pickle to read pickled ones (.bin), or --load-format "
        "dummy for random ones.",
    ),
)
"""The first row that matches any exception of the chain applies; a class matches by its own or an ancestor's name."""
LONGEST_DETAIL = 300

ATTENTION = {
    "sdpa": "_supports_sdpa",
    "flash_attention_2": "_supports_flash_attn",
    "flex_attention": "_supports_flex_attn",
}
"""The class attributes that tell which attention implementations a family has; all have eager."""

NO_STATIC_CACHE = {
    "bloom": "transformers builds its ALiBi bias for the tokens processed, not for the cache's length"
}
"""Families whose code fails with a static cache, and why (transformers 5.19)."""
NO_COMPILE = {
    "mpt": "its attention branches on the cache's length in every layer, which makes a graph of each; "
    "torch compiles at most 8",
    "opt": "it reads the cache's length on the host before its layers, which makes a graph of each; "
    "torch compiles at most 8",
}
"""Families whose decode step cannot be compiled as a whole, and why (transformers 5.19, torch 2.13)."""
ENCODER_DECODER = "it is an encoder-decoder, whose two caches are always dynamic in this backend"


@contextlib.contextmanager
def as_one_line(job: Job, reasons: Sequence[LoadErrorRule] = REASONS) -> Iterator[None]:
    """Convert failures that have a row into LoadFailed or Unsupported; pass on all others."""
    try:
        yield
    except (LoadFailed, Unsupported):
        raise
    except Exception as error:
        message = _message(error, job, reasons)
        if message is None:
            raise
        raise message from error


def _message(
    error: BaseException, job: Job, reasons: Sequence[LoadErrorRule]
) -> LoadFailed | Unsupported | None:
    chain = list(_chain(error))
    for row in reasons:
        for link in chain:
            if row.text in str(link) and row.kind in (kind.__name__ for kind in type(link).__mro__):
                return row.means(_line(row, chain[-1], job))
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, down to the first one."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(row: LoadErrorRule, first: BaseException, job: Job) -> str:
    cell, model = job.cells[0], job.model
    return row.line.format(
        where=model.location or model.name,
        detail=re.sub(r"\s+", " ", redact(str(first)))[:LONGEST_DETAIL],
        version=transformers.__version__,
        attention=cell.options.get("attn_implementation", "default"),
    )


def refuse_unsupported(config: Any, auto: Any, options: Mapping[str, Any]) -> None:
    """Refuse families that `auto` cannot build, and an attention or a cache that the family lacks.

    Raises:
        Unsupported: the message says what works.

    """
    kind = config.model_type
    known = auto._model_mapping  # noqa: SLF001 - has no public name
    remote = auto.__name__ in (getattr(config, "auto_map", None) or {})
    if type(config) not in known and not remote:
        raise Unsupported(
            f"transformers {transformers.__version__} has no text-generating model of the family {kind}."
        )
    if _is_encoder(config):
        raise Unsupported(
            f"{kind} is an encoder (is_decoder is false); this backend only runs models that decode."
        )
    reason = ENCODER_DECODER if config.is_encoder_decoder else NO_STATIC_CACHE.get(kind)
    if options["cache"] == "static" and reason:
        raise Unsupported(f"{kind} cannot use a static cache: {reason}; cache=dynamic works.")
    if options["compile"] and kind in NO_COMPILE:
        raise Unsupported(f"{kind} cannot be compiled: {NO_COMPILE[kind]}; use compile=false.")
    if type(config) in known and options["attn_implementation"] in ATTENTION:
        _refuse_attention(known[type(config)], options["attn_implementation"])


def _is_encoder(config: Any) -> bool:
    masked = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    alone = masked and not config.is_encoder_decoder
    return alone and getattr(config, "is_decoder", True) is False


def _refuse_attention(model_class: Any, attention: str) -> None:
    if getattr(model_class, ATTENTION[attention], True):
        return
    works = [
        "eager",
        *(name for name, flag in ATTENTION.items() if getattr(model_class, flag, False)),
    ]
    raise Unsupported(
        f"{model_class.__name__} has no {attention} in transformers {transformers.__version__};"
        f" attn_implementation={' or '.join(works)} works."
    )


def refuse_unreadable(job: Job) -> None:
    """Refuse weights that do not exist, or are pickled, before anything reads them.

    Raises:
        LoadFailed: the message names the flag that allows it.

    """
    if job.cells[0].load_format == "dummy":
        return
    if job.model.location is None:
        raise LoadFailed(
            f"{job.model.name} has no real weights; use --load-format dummy for random ones."
        )
    if job.model.source != "folder":
        return
    folder = Path(job.model.location)
    if not folder.is_dir():
        raise LoadFailed(f"{folder} does not exist, or this process may not read it.")
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if pickled and not any(folder.glob("*.safetensors*")) and not job.protocol.allow_pickle:
        raise LoadFailed(
            f"{folder} has only pickled weights ({pickled[0]}), which can contain code; use --allow-pickle to "
            f"read them."
        )
