"""Every model of the catalogue runs as its small copy: the right lengths, the cache that was predicted."""

import pytest

from jobs import job, prompts
from llmbench import backends, formulas, model
from llmbench.shape import shape_of
from test_formulas import ONE_OF_EACH_KIND

DECODERS = [
    pytest.param(name, marks=() if name in ONE_OF_EACH_KIND else pytest.mark.slow)
    for name in model.catalogue()
    if model.entry(name).model_type != "t5"
]
"""One of each kind always; the others take half a minute."""


@pytest.mark.parametrize("name", DECODERS)
def test_a_small_copy_runs_and_holds_what_was_predicted(name: str) -> None:
    wanted = job(f"{name}@tiny", input_len=20, output_len=4)
    found = wanted.model
    shape = shape_of(found.model_type, found.config)
    assert shape is not None

    engine = backends.load(wanted)
    engine.prepare(wanted.cells[0])
    tokens = engine.generate(prompts(wanted), 4)
    memory = engine.memory(prompts(wanted), 4)

    cached = 20 + 4 - 1  # the last token is never fed
    assert [len(row) for row in tokens] == [4, 4]
    assert engine.facts["parameters"] == formulas.parameters(shape)
    assert memory.weights_bytes == formulas.weight_bytes(shape, "float32")
    assert memory.kv_cache_bytes == 2 * formulas.held_kv_bytes(shape, "float32", cached)
    assert memory.kv_cache_theoretical_bytes == 2 * formulas.kv_bytes(shape, "float32", cached)
