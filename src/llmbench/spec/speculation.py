"""Speculative decoding as options of a cell: drafted tokens, of which the model accepts those that it would choose.

Engines that can do it declare the same options under the same names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SPECULATIVE, NONE, NGRAM, DRAFT = "speculative", "none", "ngram", "draft"
"""The option, and its choices: no drafts, drafts looked up in the text so far, drafts of a smaller model."""
COUNTS = ("speculative_tokens", "ngram_max")
DRAFT_MODEL, ANYWAY = "draft_model", "speculative_anyway"
OPTIONS = (SPECULATIVE, *COUNTS, DRAFT_MODEL, ANYWAY)
PASSES, NEW, DRAFTED, ACCEPTED = "target_passes", "new_tokens", "drafted_tokens", "accepted_tokens"
"""Counters of an engine that speculates: passes of each sequence through the model, new tokens, and tokens that were
drafted and accepted; an engine may accept more than it returns in the last pass."""
NOT_GREEDY, NEAR_TIES = "not_greedy_tokens", "near_ties"
"""Counters of the proof afterwards: tokens that the model would not choose, and those that it nearly would not."""

OWN_LOOP = "speculative decoding in transformers is its own generate()"
NEEDS = {
    "transformers": (
        ("loop", "forward", "generate", OWN_LOOP),
        ("cache", "dynamic", "dynamic", OWN_LOOP),
        ("device_map", "none", "none", OWN_LOOP),
    ),
    "vllm": (("multiprocessing", False, False, "drafts are counted in the engine's own process"),),
}
"""Options that each backend needs to speculate: the name, the default, what is needed, and why."""
ONE_AT_A_TIME = "transformers"

NEAR_TIE_NATS = {"float32": 0.002, "float16": 0.05, "bfloat16": 0.3}
"""Log-probabilities this close are a tie: products over several tokens at once round otherwise than over one, and a
logit of 20 has steps of 0.125 in bfloat16, of 0.016 in float16."""


def used(options: Mapping[str, object]) -> bool:
    """Return whether a cell's options ask for speculative decoding."""
    return options.get(SPECULATIVE, NONE) != NONE


def why_not(
    backend: str, options: Mapping[str, object], batch_size: int, *, prompts: bool, weights: bool
) -> str:
    """Return why a cell's speculation cannot run or measures nothing, given what is random; empty if it can."""
    if not used(options):
        return ""
    if why := _not_run(backend, options, batch_size):
        return why
    random = " and ".join(word for word, yes in (("prompts", prompts), ("weights", weights)) if yes)
    if random and not options.get(ANYWAY):
        return (
            f"how many drafted tokens are accepted says nothing with random {random}; give a real model and a text "
            f"(--prompts FILE), or ask for it with {ANYWAY}=true"
        )
    return ""


def _not_run(backend: str, options: Mapping[str, object], batch_size: int) -> str:
    if options[SPECULATIVE] == DRAFT and not options.get(DRAFT_MODEL):
        return f"speculative=draft needs the folder of a smaller model: {DRAFT_MODEL}=FOLDER"
    for name in COUNTS:
        if int(str(options.get(name, 1))) < 1:
            return f"{name}: {options[name]} is no length of a draft; give 1 or more"
    for name, usual, needed, why in NEEDS.get(backend, ()):
        if options.get(name, usual) != needed:
            return f"{why}; it needs {name}={str(needed).lower()}"
    if backend == ONE_AT_A_TIME and batch_size > 1:
        return f"{backend} speculates for one sequence alone; use batch_size 1, or the vllm backend"
    return ""
