"""Every model of the catalogue runs as its small copy: the right lengths, the cache that was predicted."""

from typing import Any

import pytest

from jobs import job, prompts
from lazily import Lazy
from llmbench import backends
from llmbench.models import formulas, resolve
from llmbench.models.by_row import counts_of
from test_formulas import ONE_OF_EACH_KIND

backends_config: Any = Lazy("llmbench.backends.config")
load_errors: Any = Lazy("llmbench.backends.load_errors")

BUILT = [name for name in resolve.catalogue() if resolve.entry(name).engines.transformers]
SOON = {*ONE_OF_EACH_KIND, "flan-t5-xl"}
MODELS = [pytest.param(name, marks=() if name in SOON else pytest.mark.slow) for name in BUILT]
"""One of each kind always; the others take half a minute."""


@pytest.mark.parametrize("name", MODELS)
def test_a_small_copy_runs_and_holds_what_was_predicted(name: str) -> None:
    wanted = job(f"{name}@tiny", input_len=20, output_len=4)
    found = wanted.model
    shape = counts_of(found.model_type, found.config)
    assert shape is not None

    engine = backends.load(wanted)
    engine.prepare(wanted.cells[0])
    tokens = engine.generate(prompts(wanted), 4)
    memory = engine.memory(prompts(wanted), 4)

    # The last token is never fed. An encoder keeps the prompt apart, and the decoder begins with one token.
    cached = (4, 20) if shape.encoder_layers else (20 + 4 - 1, 0)
    assert [len(row) for row in tokens] == [4, 4]
    assert engine.facts["parameters"] == shape.parameters
    assert memory.weights_bytes == formulas.weight_bytes(shape, "float32")
    assert memory.kv_cache_bytes == 2 * formulas.held_kv_bytes(shape, "float32", *cached)
    assert memory.kv_cache_theoretical_bytes == memory.kv_cache_bytes
    assert engine.facts["attn_implementation"] == attention(name)[0]


def attention(name: str) -> list[str]:
    """Return the attention implementations that the catalogue knows of a model, the default first."""
    known = resolve.entry(name).engines.transformers
    assert known is not None
    return known.attention


@pytest.mark.parametrize("name", BUILT)
def test_the_catalogue_knows_which_attention_a_model_has(name: str) -> None:
    config = backends_config.configuration(job(name), "")
    built_as = backends_config.builder(config)._model_mapping[type(config)]

    flags = load_errors.ATTENTION.items()
    found = [choice for choice, flag in flags if getattr(built_as, flag, False)]

    assert set(attention(name)) == {"eager", *found}
