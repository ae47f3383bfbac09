"""Batches of prompts of different lengths: which lengths, what is counted, and who refuses them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from fakes import a_cell, a_job
from jobs import job
from llmbench.backends import fake
from llmbench.cost import break_even
from llmbench.cost.prices import ApiPrice
from llmbench.errors import NothingToRun, SpecError
from llmbench.measure import checks, prompts
from llmbench.measure.checks import Ceilings
from llmbench.models import formulas, resolve
from llmbench.models.by_row import counts_of
from llmbench.parity import check as parity
from llmbench.predict import capacity, oom, preallocated, roofline
from llmbench.results import cells as results_cells
from llmbench.results import store
from llmbench.results.record import Outcome, Sample, Status
from llmbench.run.plan import plan
from llmbench.spec.sweep import Axes, Cell, Protocol, Sweep
from make_records import make_cell, make_plan, make_record, write_lines
from sweeps import SINGLE, VALID, Bench, asked

if TYPE_CHECKING:
    from pathlib import Path

SPREAD = "8-32@uniform"


def planned(backend: Any = "fake", seed: int = 0, **axes: Any) -> Any:
    point = {
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 4,
        "input_len": SPREAD,
        "output_len": 4,
    }
    whole = Axes(model="llama-7b@tiny", backend=backend, **{**point, **axes})
    return plan(Sweep(name="x", axes=whole, protocol=Protocol(seed=seed)))


def cell_of(**asked: Any) -> Cell:
    cell: Cell
    (cell,) = planned(**asked).cells
    return cell


def mixed(cell: Cell, *each: int) -> Cell:
    return msgspec.structs.replace(
        cell, batch_size=len(each), input_len=max(each), input_lens=each, spread="lengths some"
    )


# -- which lengths ----------------------------------------------------------------------------------


def test_lengths_are_drawn_from_the_range() -> None:
    cell = cell_of(batch_size=2000)

    assert (min(cell.input_lens), max(cell.input_lens)) == (8, 32)
    assert cell.input_len == 32
    # Each of 25 lengths is expected 80 times; nine is the standard deviation.
    assert all(35 < cell.input_lens.count(length) < 125 for length in range(8, 33))


def test_another_backend_and_a_larger_batch_have_the_same_lengths() -> None:
    one = cell_of(backend="fake")

    assert cell_of(backend="vllm").input_lens == one.input_lens
    assert cell_of(batch_size=9).input_lens[:4] == one.input_lens
    assert len(set(one.input_lens)) > 1


def test_another_seed_has_other_lengths_and_is_another_cell() -> None:
    one, other = cell_of(seed=0), cell_of(seed=1)

    assert one.input_lens != other.input_lens
    assert one.id != other.id


def test_one_length_has_the_cell_it_has_always_had() -> None:
    cell = cell_of(input_len=8)

    assert not cell.input_lens
    assert set(msgspec.to_builtins(cell)) == set(Cell.__struct_fields__) - {
        "spread", "input_lens", "attached_digest",
    }  # fmt: skip


def test_lengths_come_from_a_file_in_its_order(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text("5\n9\n\n7\n6\n30\n")

    cell = cell_of(input_len=[f"lengths {file}"])

    assert cell.input_lens == (5, 9, 7, 6)
    assert cell.spread == "lengths some.txt"
    assert "-i-lengths-some.txt-" in cell.id.replace("ilengths", "i-lengths")
    file.write_text("5\n9\n7\n7\n")
    assert cell_of(input_len=f"lengths {file}").id != cell.id


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("5\nmany\n", "line 2: 'many' is not a whole number of tokens above 0; write one on each"),
        ("5,6\n", "line 1: '5,6' is not a whole number of tokens"),
        ("0\n", "line 1: '0' is not a whole number of tokens above 0"),
        ("[5, 6]", "line 1: '\\[5, 6\\]' is not a whole number"),
        ("\n", "lists no length"),
    ],
)  # fmt: skip
def test_another_file_is_one_line(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text(text)

    with pytest.raises(SpecError, match=f"input_len: lengths .*some.txt'.*{line}"):
        planned(input_len=f"lengths {tmp_path / 'some.txt'}")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"input_len: lengths '.*nowhere': No such file"):
        planned(input_len=f"lengths {tmp_path / 'nowhere'}")


def test_a_file_lists_enough_lengths(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("5\n6\n")

    found = planned(input_len=f"lengths {tmp_path / 'some.txt'}", batch_size=[2, 3])

    assert [why for why in found.refused.values() if "lists 2 lengths, fewer than the batch" in why]
    assert len(found.refused) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("8-32@normal", "lengths are drawn uniform; write 128-1024@uniform, or lengths FILE"),
        ("32-8@uniform", "the range begins at 1 or more and ends above its beginning"),
        ("0-8@uniform", "the range begins at 1 or more"),
        ("8@uniform", "is not a spread of lengths; write 128-1024@uniform"),
        ("lengths", "is not a spread of lengths"),
        ("8-32uniform", "is not a whole number or a range"),
    ],
)
def test_another_spread_is_one_line(text: str, line: str) -> None:
    with pytest.raises(SpecError, match=line):
        planned(input_len=text)


def test_lengths_and_one_length_are_values_of_one_axis() -> None:
    found = planned(input_len=[8, f"16-32*2,{SPREAD}"])

    assert [cell.asked("input_len") for cell in found.cells] == [8, 16, 32, SPREAD]


@pytest.mark.parametrize(
    ("backend", "line"),
    [
        (
            "transformers",
            "it would pad the others; the backends that run different lengths without padding",
        ),
        ("fake_server", "the requests of a load have different lengths by a trace"),
    ],
)
def test_who_would_pad_refuses_in_the_plan(backend: str, line: str) -> None:
    with pytest.raises(NothingToRun, match=line):
        planned(backend, **({"batch_size": 1} if backend == "fake_server" else {}))


# -- prompts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "one two three four five six seven eight " * 20])
def test_each_prompt_has_its_own_length(text: str | None) -> None:
    cell = mixed(a_cell(), 3, 9, 5)
    engine = fake.load(a_job(cell))
    drawn: Any = (
        prompts.synthetic(cell, engine, 0, 1)
        if text is None
        else prompts.from_text(cell, engine, 0, 1, text).prompts
    )

    rows = [drawn("iteration", number) for number in range(3)]

    assert [[len(prompt) for prompt in row] for row in rows] == [[3, 9, 5]] * 3
    assert rows[0] != rows[1]


# -- a sweep ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Return a run of one batch of different lengths, and one of one length, at two sizes."""
    made = Bench(tmp_path_factory.mktemp("lengths"))
    made.write(axes={"batch_size": [2, 4], "input_len": [SPREAD, 16]}, ttft_ms=10.0, tpot_ms=1.0)
    done = made.sweep()
    assert done.code in VALID, done.err
    return made


def test_its_tokens_are_those_of_its_prompts(measured: Bench) -> None:
    found = json.loads(asked("table", measured.run, "--format", "json", "--metric", "all").out)
    rows = {
        (row["batch_size"], row.get("spread") or row["input_len"]): row["values"]
        for row in found["cells"]
    }
    drawn = cell_of(batch_size=4).input_lens

    for batch in (2, 4):
        tokens = sum(drawn[:batch])
        values = rows[batch, SPREAD]
        assert values["prefill_tok_s"]["value"] == pytest.approx(tokens / 0.010)
        assert values["total_tok_s"]["value"] == pytest.approx((tokens + 4 * batch) / 0.013)
        assert values["kv_cache_bytes"]["value"] == 1024 * (tokens + 4 * batch)
        assert rows[batch, 16]["prefill_tok_s"]["value"] == pytest.approx(16 * batch / 0.010)


def test_every_session_has_the_same_lengths_and_a_record_keeps_them(measured: Bench) -> None:
    kept = {(r.cell.batch_size, r.cell.input_lens) for r in measured.records() if r.cell.spread}

    assert kept == {(size, cell_of(batch_size=size).input_lens) for size in (2, 4)}


def test_a_table_says_what_was_asked_and_what_it_came_to(measured: Bench) -> None:
    said = asked("table", measured.run).out

    assert SPREAD in said
    each = cell_of().input_lens
    assert (
        f"in {SPREAD}, batch 4: prompts of {min(each)} to {max(each)} tokens, {sum(each)} together."
        in said
    )


def test_sizes_of_a_batch_are_compared_although_their_lengths_differ(measured: Bench) -> None:
    found = json.loads(asked("compare", measured.run, "--by", "batch_size", "--format", "json").out)

    (candidate,) = found["candidates"]
    assert [row.get("spread") for row in candidate["cells"]] == [SPREAD, None]


def test_lengths_are_a_factor_to_compare_by(measured: Bench) -> None:
    found = json.loads(asked("compare", measured.run, "--by", "input_len", "--format", "json").out)

    assert found["baseline"] == f"input_len {SPREAD}"
    assert [len(one["cells"]) for one in found["candidates"]] == [2]


def test_runs_with_other_lengths_are_not_compared(measured: Bench, bench: Bench) -> None:
    bench.write(
        axes={"batch_size": 4, "input_len": SPREAD}, protocol={**SINGLE, "seed": 7}, ttft_ms=10.0
    )
    assert bench.sweep().code in VALID

    done = asked("compare", measured.run, bench.run)

    assert "prompts of other lengths, drawn or read in the same way" in done.out
    assert done.code == 3


def test_an_export_counts_the_prompts(measured: Bench) -> None:
    rows = json.loads(asked("export", measured.run, "--format", "vllm-json").out)
    row = next(
        row for row in rows if row["max_concurrency"] == 4 and SPREAD in row["llmbench_cell"]
    )

    calls = row["completed"] / 4
    assert row["total_input_tokens"] == calls * sum(cell_of().input_lens)


@pytest.mark.parametrize(
    "command", [("report",), ("cost", "--usd-per-hour", "1"), ("fit",), ("claims",)]
)
def test_commands_that_read_a_run_read_it(
    command: tuple[str, ...], measured: Bench, tmp_path: Path
) -> None:
    more = ("-o", tmp_path / "page.html") if command == ("report",) else ()

    done = asked(command[0], measured.run, *command[1:], *more)

    assert done.code == 0, done.err


def test_a_claim_is_about_prompts_of_one_length(measured: Bench) -> None:
    rows = results_cells.read(store.read(measured.run), "run")

    assert {row.cell.spread for row in rows} == {SPREAD, ""}
    assert SPREAD not in asked("claims", measured.run, "--format", "json").out


# -- what is computed from lengths ------------------------------------------------------------------


def on_gpu(*each: int) -> Cell:
    (cell,) = job("llama-7b", dtype="bfloat16", device="cuda", output_len=5).cells
    return mixed(cell, *each) if len(set(each)) > 1 else msgspec.structs.replace(
        cell, batch_size=len(each), input_len=each[0]
    )  # fmt: skip


def known(name: str = "llama-7b") -> Any:
    found = resolve.resolve(name)
    return counts_of(found.model_type, found.config)


def test_work_is_the_sum_of_each_sequence_alone() -> None:
    counts, parts = known(), (10, 300, 47)
    whole = roofline.work(counts, on_gpu(*parts))
    alone = [roofline.work(counts, on_gpu(part)) for part in parts]

    assert whole.prefill_flops == sum(each.prefill_flops for each in alone)
    assert whole.decode_flops == sum(each.decode_flops for each in alone)
    weights = 4 * whole.step_weight_bytes  # read once a step for the whole batch
    assert whole.decode_bytes - weights == sum(each.decode_bytes - weights for each in alone)


def test_room_is_for_the_sum_of_the_lengths() -> None:
    options = {
        "quantization": "none", "tensor_parallel_size": 1, "pipeline_parallel_size": 1, "kv_cache_dtype": "auto",
        "gpu_memory_utilization": 0.9, "kv_cache_memory_bytes": 0, "max_model_len": 0, "max_num_seqs": 0,
    }  # fmt: skip
    rooms = [
        preallocated.room(known(), on_gpu(*each), options, None, 80 * 2**30, 1)
        for each in ((11, 2043), (11,), (2043,))
    ]

    both, short, long = (each.need_bytes for each in rooms if each)
    assert both - long == short - (long - formulas.kv_bytes(known(), "bfloat16", 2048))


def outcome(first_s: float) -> Outcome:
    ns = int(first_s * 1e9)
    samples = [Sample(e2e_ns=2 * ns, wall_ns=2 * ns, token_ns=[[ns, 2 * ns]])] * 3
    return Outcome(cell="x", samples=samples, returned={"2": 6}, warmup_ns=[ns] * 3)


def test_physics_counts_the_tokens_that_are_there() -> None:
    cell = mixed(a_cell(output_len=2), 10, 90)
    equal = msgspec.structs.replace(cell, input_lens=(), spread="")
    engine = {"flops_per_prompt_token": 10}

    def problems(of: Cell) -> list[str]:
        whole = msgspec.structs.replace(outcome(1.0), engine=engine)
        return [each.code for each in checks.check_outcome(of, whole, Ceilings(flops=1200.0))[1]]

    # 100 tokens are 1,000 operations; two prompts of 90 tokens would be 1,800.
    assert problems(cell) == []
    assert problems(equal) == ["implausible"]


def test_nothing_is_inferred_from_other_lengths() -> None:
    short, long = mixed(a_cell("a"), 3, 9), mixed(a_cell("b"), 5, 90)
    equal = msgspec.structs.replace(a_cell("c"), input_len=9)

    assert not oom.at_most(short, long)
    assert not oom.at_most(equal, long)
    assert not oom.at_most(short, equal)
    assert oom.at_most(short, short)


def test_the_largest_batch_has_a_row_for_each_spread(tmp_path: Path) -> None:
    some = [
        make_cell(number, batch_size=len(each), input_len=max(each), input_lens=each, spread=asked_for)
        for number, (each, asked_for) in enumerate(
            [((8, 9), "8-9@uniform"), ((8, 9, 9), "8-9@uniform"), ((9,), "")]
        )
    ]  # fmt: skip
    some = [msgspec.structs.replace(cell, model="m") for cell in some]
    store_lines: list[Any] = [
        make_plan(some),
        *(make_record(cell, 1, status=Status.OK) for cell in some),
    ]
    write_lines(tmp_path / "run", store_lines)

    rows = capacity.fits(store.read(tmp_path / "run"))

    assert [(row.input_len, row.largest, row.predicted) for row in rows] == [
        ("8-9@uniform", 3, None), (9, 1, None),
    ]  # fmt: skip


def test_parity_is_checked_on_prompts_of_one_length() -> None:
    small = parity._small(mixed(a_cell(), 3, 9))

    assert (small.input_lens, small.spread, small.input_len) == ((), "", parity.INPUT_LEN)


def test_a_price_is_of_the_mean_prompt(measured: Bench) -> None:
    rows = results_cells.read(store.read(measured.run), "run")
    (row,) = (each for each in rows if each.cell.spread and each.cell.batch_size == 4)
    price = ApiPrice(
        model="m", provider="p", date="2026-01", input_usd=2.0, output_usd=1.0, source="s"
    )

    found = break_even(row, 1.0, price)

    mean = sum(row.cell.input_lens) / 4
    assert found.tokens_per_day == pytest.approx(24e6 / (2.0 * mean + 4) * (mean + 4))
