"""Writes a LoRA adapter with random numbers for the queries, keys, values and outputs of a model's attention.

make_adapter.py [MODEL_FOLDER [ADAPTER_FOLDER [RANK]]]
"""

from __future__ import annotations

import sys

import peft
import torch
import transformers

MODEL, ADAPTER, RANK = "models/smollm2-135m-instruct", "models/smollm2-adapter", "16"
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]


def main() -> None:
    """Write the adapter; the same rank gives the same numbers."""
    given = sys.argv[1:]
    source, folder, rank = (*given, *(MODEL, ADAPTER, RANK)[len(given) :])
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    wanted = peft.LoraConfig(
        r=int(rank), lora_alpha=int(rank), target_modules=MODULES, init_lora_weights=False
    )
    model = peft.get_peft_model(base, wanted)
    model.save_pretrained(folder)
    trained, _ = model.get_nb_trainable_parameters()
    print(f"{folder}: {trained:,} parameters of rank {rank}, for {source}")


if __name__ == "__main__":
    main()
