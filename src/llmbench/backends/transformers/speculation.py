"""Speculative decoding by transformers' assisted generation: drafts are looked up in the text, or come from a model."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from llmbench.backends.memory import stored_bytes
from llmbench.backends.transformers.loops import GenerateLoop
from llmbench.spec import speculation

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from llmbench.backends.transformers.clocks import TokenClock


class SpeculativeLoop(GenerateLoop):
    """`model.generate` with drafts of a constant length, counted."""

    def __init__(
        self,
        model: Any,
        clock: TokenClock,
        device: torch.device,
        options: Mapping[str, Any],
        draft: Any = None,
    ) -> None:
        super().__init__(model, clock, device, options)
        self.drafted = 0
        del self._settings[
            "cache_implementation"
        ]  # would reach the draft model, which has a cache already
        tokens = options["speculative_tokens"]
        if draft is None:
            self._settings["prompt_lookup_num_tokens"] = tokens
            self._settings["max_matching_ngram_size"] = options["ngram_max"]
        else:
            draft.generation_config = transformers.GenerationConfig(
                num_assistant_tokens=tokens,
                num_assistant_tokens_schedule="constant",
                assistant_confidence_threshold=0.0,
            )
            self._settings["assistant_model"] = draft
        model._get_candidate_generator = self._counting(model._get_candidate_generator)  # noqa: SLF001

    def _counting(self, make: Any) -> Any:
        """Return the function of the library that makes the drafting object, with its drafts counted."""

        @functools.wraps(make)
        def made(*arguments: Any, **named: Any) -> Any:
            drafting = make(*arguments, **named)
            draw = drafting.get_candidates

            def counted(input_ids: torch.Tensor, *more: Any, **further: Any) -> Any:
                candidates = draw(input_ids, *more, **further)
                self.drafted += candidates[0].shape[1] - input_ids.shape[1]
                return candidates

            drafting.get_candidates = counted
            return drafting

        return made

    def counters(self) -> dict[str, int]:
        """Return passes through the model, and tokens that were drafted and accepted, since it was loaded."""
        passes, new = self._stamp.calls, self._stamp.tokens
        return {
            speculation.PASSES: passes,
            speculation.NEW: new,
            speculation.DRAFTED: self.drafted,
            speculation.ACCEPTED: new - passes,
        }


def draft_model(options: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """Return the draft model on the model's device in its dtype; None if drafts are looked up."""
    if options[speculation.SPECULATIVE] != speculation.DRAFT:
        return None
    folder = Path(options[speculation.DRAFT_MODEL]).expanduser()
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, device_map={"": device}, use_safetensors=True
    ).eval()


def draft_bytes(draft: Any) -> int | None:
    """Return the bytes of a draft model's weights; None without one."""
    return None if draft is None else stored_bytes(draft.parameters())
