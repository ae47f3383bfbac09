"""What is told of this machine: what changes a number, from an allow-list, and nothing that names its owner."""

import json
import os
import types

import pynvml
import pytest

from llmbench.machine import info

SERIAL = "GPU-6f1b0a3e-1111-2222-3333-444455556666"


def test_the_environment_holds_no_variable_but_those_on_the_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("DATABASE", "LD_LIBRARY_PATH", "HTTPS_PROXY", "USER", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, f"zebra-{name}")

    facts, _ = info.environment(info.machine())

    told = json.dumps(facts)
    assert facts["variables"]["OMP_NUM_THREADS"] == "zebra-OMP_NUM_THREADS"
    assert told.count("zebra-") == 1
    assert set(facts["variables"]) == set(info.VARIABLES) & set(os.environ)


def test_of_libraries_loaded_first_only_the_names_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/home/zebra/libiomp5.so:libtcmalloc.so.4")

    facts, _ = info.environment(info.machine())

    assert facts["variables"]["LD_PRELOAD"] == "libiomp5.so:libtcmalloc.so.4"


def test_a_devices_serial_number_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "nvmlInit": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": 0,
        "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(total=2**30),
        "nvmlDeviceGetUUID": SERIAL,
        "nvmlDeviceGetName": "NVIDIA H200",
        "nvmlSystemGetDriverVersion": "1",
        "nvmlSystemGetCudaDriverVersion": 1,
        "nvmlDeviceGetPowerManagementLimit": 700_000,
        "nvmlDeviceGetMaxClockInfo": 1980,
        "nvmlDeviceGetEccMode": (1, 1),
        "nvmlDeviceGetMigMode": (0, 0),
        "nvmlDeviceGetPersistenceMode": 1,
    }
    for question, answer in answers.items():
        monkeypatch.setattr(pynvml, question, lambda *_, answer=answer: answer)

    found = info.machine()

    (gpu,) = found["gpus"]
    assert found["name"] == "h200"
    assert SERIAL not in json.dumps(info.environment(found))
    assert len(gpu["uuid_hash"]) == 12
    assert gpu["uuid_hash"] not in SERIAL
