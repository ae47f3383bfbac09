"""Writes a draft model that is the first layers of a model, with its embedding, last norm and head.

make_draft.py [MODEL_FOLDER [DRAFT_FOLDER [LAYERS]]]
"""

from __future__ import annotations

import sys

import transformers

MODEL, DRAFT, LAYERS = "models/smollm2-135m-instruct", "models/smollm2-draft", "10"


def main() -> None:
    """Write the draft model; nothing is trained."""
    given = sys.argv[1:]
    source, folder, layers = (*given, *(MODEL, DRAFT, LAYERS)[len(given) :])
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    model.model.layers = model.model.layers[: int(layers)]
    model.config.num_hidden_layers = int(layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[: int(layers)]
    model.save_pretrained(folder)
    print(f"{folder}: {model.num_parameters():,} parameters, {layers} layers of {source}")


if __name__ == "__main__":
    main()
