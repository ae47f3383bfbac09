"""Published figures against measured cells: what is comparable, what is not and why."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import astuple

from claimed import row
from llmbench import claims
from llmbench.claims import published
from llmbench.claims.published import PublishedOutcome
from llmbench.machine import chips
from llmbench.report.views import published as views_published
from llmbench.results.cells import Machine
from llmbench.spec import configs

COPIED = {
    "anyscale": "261a80a48a66",
    "argonne": "9fd25133edd8",
    "dataset2nd": "9957892d0339",
    "dbx": "ee0478f714de",
    "fastgen": "58e0d30b0842",
    "foundry": "11bdc9e16e9d",
    "foundry_log": "953db1b5e007",
    "gptfast": "f3b3906bcaee",
    "infx": "d2f6ca2a6c32",
    "trt061": "6f847917c5b4",
    "trt10": "e9c9d2b38ce9",
    "vllm23": "7c3dfffa922b",
    "vllm2311": "199ae2c232b6",
    "vllm2409": "06cabd21e73d",
    "vllm2501": "60c80b9749eb",
    "vllm2510": "92ec68b90b27",
    "vllm2608": "5ffceae6a287",
}
"""The beginning of each file's SHA-256: figures are copied from their source and corrected only with a look at it."""

A100 = Machine("a100", "a100-80gb-sxm", 1)
TWO = Machine("a100", "a100-80gb-sxm", 2)


def cell(e2e_s: float = 0.988, share: float = 0.01, **changes: Any) -> Any:
    """Return MPT-7B as llm-foundry measured it on 2023-07-18: batch 1, 512 in, 64 out, 988 ms in bfloat16."""
    facts: dict[str, Any] = {
        "device": "cuda", "machine": A100, "input_len": 512, "output_len": 64, **changes,
    }  # fmt: skip
    return row("mpt-7b", values={"e2e_s": e2e_s}, share=share, **facts)


def of_foundry(*rows: Any) -> published.PublishedComparison:
    """Return what is said of that one figure."""
    [found] = [
        each
        for each in published.comparisons(rows)
        if (each.figure.metric, each.figure.value, each.figure.batch)
        == ("latency_ms", "988.0", "1")
    ]
    return found


@pytest.mark.parametrize("source", COPIED)
def test_the_figures_are_those_that_were_copied(source: str) -> None:
    content = (configs.folder("baselines") / f"{source}.csv").read_bytes()

    assert hashlib.sha256(content).hexdigest().startswith(COPIED[source])


@pytest.mark.parametrize(
    ("e2e_s", "share", "outcome"),
    [
        (0.988, 0.01, PublishedOutcome.REPRODUCED),
        (0.500, 0.01, PublishedOutcome.NOT_REPRODUCED),
        (1.500, 0.01, PublishedOutcome.NOT_REPRODUCED),
        (1.080, 0.01, PublishedOutcome.INCONCLUSIVE),
    ],
)
def test_a_figure_is_reproduced_within_a_tenth(
    e2e_s: float, share: float, outcome: PublishedOutcome
) -> None:
    found = of_foundry(cell(e2e_s, share))

    assert found.outcome is outcome
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(e2e_s / 0.988, rel=0.001)


def test_one_session_reproduces_nothing() -> None:
    whole = cell()
    single = type(whole)(**{**vars(whole), "values": {"e2e_s": (0.988,)}})

    assert of_foundry(single).outcome is PublishedOutcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"machine": Machine("h200", "h200", 1)},
            "another chip: measured on h200, published on 1xA100-80GB",
        ),
        ({"device": "cpu"}, "another chip: measured on cpu"),
        ({"machine": TWO, "options": {"device_map": "auto"}}, "another number of GPUs"),
        ({"machine": TWO, "options": {"tensor_parallel_size": 2}}, "another number of GPUs"),
        ({"backend": "vllm"}, "another engine: measured with vllm, published with HF generate"),
        ({"dtype": "float32"}, "another precision: float32 against bfloat16"),
        ({"dtype": "not said"}, "another precision: not said against bfloat16"),
        ({"input_len": 128}, "512 in and 64 out was not measured"),
        ({"batch_size": 3}, "batch 1 was not measured"),
    ],
)
def test_what_differs_is_the_reason(changes: dict[str, Any], says: str) -> None:
    found = of_foundry(cell(**changes))

    assert found.outcome is PublishedOutcome.NOT_COMPARABLE
    assert found.reason.startswith(says)


def test_a_gpu_that_was_idle_beside_does_not_count() -> None:
    assert of_foundry(cell(machine=TWO)).outcome is PublishedOutcome.REPRODUCED


def test_the_nearest_cell_gives_the_reason() -> None:
    assert of_foundry(cell(device="cpu"), cell(batch_size=3)).reason == "batch 1 was not measured"


def test_what_was_told_at_second_hand_is_never_judged() -> None:
    same = row(
        "qwen2.5-7b",
        device="cuda",
        machine=Machine("h200", "h200", 1),
        backend="vllm",
        input_len=512,
        output_len=512,
    )

    found = [each for each in published.comparisons([same]) if each.source.second_hand]

    assert found
    assert {each.reason for each in found} == {"known only at second hand"}


def test_input_tokens_are_never_counted_as_output() -> None:
    """Argonne's throughput counts both; its latency is what is used."""
    argonne = [figure for source, figure in published.figures() if "Argonne" in source.title]

    assert {figure.metric for figure in argonne} == {"latency_s"}


def test_every_figure_has_a_source_and_a_date() -> None:
    found = list(published.figures())

    assert len(found) == 613
    assert all(figure.date[:3] == "202" and source.definition for source, figure in found)
    assert not any("http" in source.source for source, _ in found)


def test_what_is_comparable_comes_first() -> None:
    rows = views_published.rows(published.comparisons([cell()]))

    outcomes = [each["outcome"] for each in rows]
    assert outcomes[0] == "reproduced"
    assert set(outcomes[1:]) == {"not comparable"}


def test_alike_figures_are_one_row() -> None:
    found = published.comparisons([cell(device="cpu")])

    rows = views_published.rows(found)

    assert sum(int(str(each["figures"])) for each in rows) == len(found)
    assert len(rows) < len(found) / 3
    assert Counter(each["outcome"] for each in rows).keys() == {"not comparable"}


def test_what_can_be_compared_in_principle_is_counted_by_hand() -> None:
    """Written out once more from the files, by this test's own conditions."""
    counted = Counter(
        line["engine"]
        for path in configs.folder("baselines").glob("*.csv")
        if path.stem != "dataset2nd"
        for line in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        if line["engine"]
        and line["gpus"] == "1"
        and line["chips"]
        and line["precision"] in {"bfloat16", "float16", "16-bit", "float32"}
        and line["metric"] in {"latency_ms", "latency_s"}
        and all(line[key].isdecimal() for key in ("batch", "input_len", "output_len"))
        and "implausible" not in line["confidence"]
    )
    able = [f for source, f in published.figures() if published.in_principle(source, f)]

    assert counted == {"vllm": 92, "transformers": 89}
    assert Counter(figure.engine for figure in able) == counted
    assert "Of all 613, 181 can be compared in principle" in views_published.summary([])


def test_no_figure_stands_twice() -> None:
    """Two values under equal conditions of one source would be judged twice."""
    shapes = Counter(
        (source.title, *astuple(figure)[:-2])
        for source, figure in published.figures()
        if published.in_principle(source, figure)
    )

    assert max(shapes.values()) == 1


def test_a_figure_faster_than_its_weights_can_be_read_is_never_judged() -> None:
    """At 4 TB/s, 7 billion parameters of two bytes take 3.4 ms: 2,048 tokens need at least 7 seconds."""
    quick = [
        figure
        for _, figure in published.figures()
        if "GH200" in figure.hardware and figure.output_len == "2048" and float(figure.value) < 7
    ]

    assert len(quick) == 16
    assert all("implausible" in figure.confidence for figure in quick)


def test_the_cost_of_2023_follows_from_its_row() -> None:
    """One figure has one home: the time in foundry.csv and the price in the chip's file give the dollars."""
    [row] = [
        figure
        for source, figure in published.figures()
        if (figure.model, figure.batch, figure.input_len, figure.output_len, figure.precision)
        == ("mpt-7b", "64", "512", "64", "bfloat16")
        and "decoded from vector chart" in figure.confidence
        and figure.hardware == "1xA100-80GB"
        and figure.engine == "transformers"
        and "torch attention" in figure.software
    ]
    [hour] = [
        price.usd_per_hour
        for price in chips.chip("a100-80gb-sxm").prices
        if price.date == "2023-07" and price.provider.startswith("AWS")
    ]
    assert hour is not None

    tokens_s = 64 * 64 / (float(row.value) / 1e3)
    usd = hour / 3600 / tokens_s * 1e6

    assert tokens_s == pytest.approx(466.89, abs=0.01)
    assert claims.claim("inference-cost-decline").assumed(
        "mpt_7b_usd_per_1m_output"
    ) == pytest.approx(usd, abs=0.005)
