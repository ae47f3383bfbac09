"""Importer of llama.cpp's `llama-bench -o jsonl` (or `-o json`): forward passes of prompts, single steps or both.

It does not sample tokens: a prompt test ends with the forward pass, and each step feeds a random token. Its rates
therefore differ from our prefill and decode rates and have their own names.
"""

from __future__ import annotations

from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from llmbench.errors import Unconvertible
from llmbench.importers import Reading
from llmbench.importers.fields import Fields, agree, last_name
from llmbench.results.record import Given

if TYPE_CHECKING:
    from llmbench.importers import Said, ToolFile

TOOL = "llama-bench"

KEYS = {"build_commit", "model_filename", "n_prompt", "n_gen", "avg_ns", "avg_ts"}

SETTINGS = (
    "model_type",
    "n_threads",
    "n_batch",
    "n_ubatch",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "flash_attn",
)
"""Settings that are always shown, if the file has them."""

SWITCHES = ("flash_attn",)
"""Settings that older builds write as true and newer ones as 1."""

DEFAULTS: dict[str, tuple[object, ...]] = {
    "cpu_mask": ("0x0", "", "0"),
    "cpu_strict": (False, 0),
    "poll": (50,),
    "n_cpu_moe": (0,),
    "split_mode": ("layer",),
    "main_gpu": (0,),
    "no_kv_offload": (False, 0),
    "devices": ("auto", ""),
    "tensor_split": ("0.00", "0", ""),
    "tensor_buft_overrides": ("none", ""),
    "use_mmap": (True, 1),
    "use_direct_io": (False, 0),
    "embeddings": (False, 0),
    "no_op_offload": (False, 0),
    "no_host": (False, 0),
    "load_mode": ("auto",),
    "lazy_mode": ("auto",),
    "repack": (True, 1),
    "fit_target": (0,),
    "fit_min_ctx": (0,),
}
"""What other settings are if nobody sets them; builds differ in which they write. Others are shown, known or not."""

MACHINE = ("gpu_info", "cpu_info", "backends", "model_size", "model_n_params")
"""What a test says of its machine, its build and its file."""

RESULTS = {
    "build_commit", "build_number", "model_filename", "test_time", "n_prompt", "n_gen", "n_depth", "avg_ns",
    "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts",
}  # fmt: skip
OF_OLD_BUILDS = (
    "cuda",
    "opencl",
    "vulkan",
    "kompute",
    "metal",
    "sycl",
    "rpc",
    "gpu_blas",
    "blas",
    "opencl",
)
"""Which parts builds of 2023 had, instead of `backends`."""

KINDS = {
    (True, False): ("forward_prefill_tok_s", "prompt tokens / time of their forward passes"),
    (False, True): ("forward_decode_tok_s", "steps / time of their forward passes"),
    (True, True): ("forward_total_tok_s", "(prompt tokens + steps) / time of their forward passes"),
}
"""The key and definition of a test, by whether it has a prompt and whether it has steps."""


def recognises(document: ToolFile) -> bool:
    """Return whether this tool wrote the file, with one test per line or all in a list."""
    tests = _tests(document)
    return bool(tests) and all(isinstance(test, dict) and test.keys() >= KEYS for test in tests)


def read(document: ToolFile, said: Said) -> list[Reading]:
    """Return one reading per test."""
    del said
    tests = [
        Fields(test, f"{document.name}: test {number}")
        for number, test in enumerate(_tests(document), 1)
    ]
    return [_reading(test) for test in tests]


def _tests(document: ToolFile) -> list[Any]:
    """Return all tests, one per value or in lists, of which a file may have several after one another."""
    held = [value if isinstance(value, list) else [value] for value in document.values]
    return [test for tests in held for test in tests]


def _settings(test: Fields) -> dict[str, Any]:
    """Return the settings of a test, those that nobody set only if they are always shown."""
    known = {name: test.scalar(name) for name in SETTINGS if test.has(name)}
    known |= {name: bool(known[name]) for name in SWITCHES if known.get(name) in {0, 1}}
    others = test.rest({*SETTINGS, *MACHINE, *RESULTS, *OF_OLD_BUILDS})
    return known | {k: v for k, v in others.items() if v not in DEFAULTS.get(k, ())}


def _reading(test: Fields) -> Reading:
    prompt, steps = test.count("n_prompt"), test.count("n_gen")
    depth = test.count("n_depth") if test.has("n_depth") else 0
    if not prompt and not steps:
        raise Unconvertible(f"{test.where}: has neither a prompt nor steps.")
    key, definition = KINDS[bool(prompt), bool(steps)]
    times_ns = _times(test)
    rates = [(prompt + steps) / ns * 1e9 for ns in times_ns]
    agree(test.positive("avg_ts"), fmean(rates), "avg_ts", test.where)
    return Reading(
        where={
            "model": last_name(test.text("model_filename")),
            "backend": "llama.cpp",
            "device": test.text("backends").lower() if test.has("backends") else None,
            "prompts": "synthetic",
            "batch_size": 1,
            "input_len": prompt,
            "output_len": steps,
            "options": {**_settings(test), "depth": depth},
        },
        traits={
            **{name: test.scalar(name) for name in MACHINE if _says(test, name)},
            **{name: test.scalar(name) for name in OF_OLD_BUILDS if test.has(name)},
        },
        given={
            key: Given(
                value=(prompt + steps) / median(times_ns) * 1e9,
                definition=f"{definition}, {depth} tokens before them; no token is chosen",
                clock="host, high_resolution_clock, synchronised",
                tokens="the lengths asked for",
                per="iteration",
                samples=rates,
            )
        },
        refused={
            "avg_ns": "a mean; the repetitions themselves are taken, and their median shown",
            "avg_ts": "a mean of rates; tokens over the median time are shown",
        },
        version=test.text("build_commit"),
        ended=test.text("test_time") if test.has("test_time") else None,
    )


def _says(test: Fields, name: str) -> bool:
    return test.has(name) and test.raw(name) != ""


def _times(test: Fields) -> list[float]:
    if not test.has("samples_ns"):
        raise Unconvertible(
            f"{test.where}: has no 'samples_ns', only a mean, which is not a median; write the file with -o jsonl."
        )
    times_ns = test.positives("samples_ns")
    agree(test.positive("avg_ns"), fmean(times_ns), "avg_ns", test.where)
    return times_ns
