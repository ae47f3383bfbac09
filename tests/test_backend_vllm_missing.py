"""Without vLLM, its backend is one line that names the extra."""

import sys

import pytest

import standin_vllm
from jobs import family, job
from llmbench import backends
from llmbench.errors import LoadFailed


def test_a_missing_vllm_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    standin_vllm.forget()
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed

    with pytest.raises(LoadFailed) as refused:
        backends.load(job(family("llama"), backend="vllm"))

    assert (
        str(refused.value)
        == "the vllm backend needs the package vllm: pip install 'llmbench[vllm]'."
    )
