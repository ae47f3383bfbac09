"""Speculative decoding in vLLM: its settings from a cell's options, and drafts as its scheduler counts them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.spec import speculation

if TYPE_CHECKING:
    from collections.abc import Mapping


def settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the engine arguments of speculative decoding; empty without it."""
    if not speculation.used(options):
        return {}
    tokens = {"num_speculative_tokens": options["speculative_tokens"]}
    if options[speculation.SPECULATIVE] == speculation.NGRAM:
        lookup = {"prompt_lookup_max": options["ngram_max"], "prompt_lookup_min": 1}
        return {"speculative_config": {"method": "ngram", **lookup, **tokens}}
    folder = Path(options[speculation.DRAFT_MODEL]).expanduser()
    return {
        "speculative_config": {"method": "draft_model", "model": str(folder.resolve()), **tokens}
    }


class DraftCounts:
    """Drafted and accepted tokens, as the scheduler reports them to its own statistics at each step."""

    def __init__(self, core: Any) -> None:
        self.passes = self.new = self.drafted = self.accepted = 0
        scheduler = core.engine_core.scheduler
        report = scheduler.make_spec_decoding_stats

        @functools.wraps(report)
        def counted(*arguments: Any, **named: Any) -> Any:
            self.drafted += named["num_draft_tokens"]
            self.accepted += named["num_accepted_tokens"]
            return report(*arguments, **named)

        scheduler.make_spec_decoding_stats = counted

    def add(self, passes: int, new: int) -> None:
        """Count a call's passes, of all its sequences, and its new tokens."""
        self.passes += passes
        self.new += new

    def counters(self) -> dict[str, int]:
        """Return the counters of an engine that speculates."""
        return {
            speculation.PASSES: self.passes,
            speculation.NEW: self.new,
            speculation.DRAFTED: self.drafted,
            speculation.ACCEPTED: self.accepted,
        }
