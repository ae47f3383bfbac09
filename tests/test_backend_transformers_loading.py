"""Checkpoints, whole and broken: what loads is what was saved, and each failure is one helpful line."""

import http.server
import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hubs import Refusing
from jobs import family, job, prompts
from lazily import safetensors, torch, transformers
from llmbench import backends
from llmbench.errors import LoadFailed, Unsupported
from llmbench.models.resolve import Model
from llmbench.results.record import Job
from llmbench.spec.sweep import Protocol

Breakage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("checkpoints") / "whole"
    engine: Any = backends.load(job(family("llama")))
    engine._model.save_pretrained(folder)
    return folder


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Callable[[Breakage], Path]:
    """Return a function that copies the whole checkpoint and breaks the copy."""

    def copy(breaking: Breakage) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(whole, folder)
        breaking(folder)
        return folder

    return copy


def real(folder: Path | Model, **wanted: Any) -> Job:
    """Return a job that asks for the folder's own weights."""
    return job(folder, load_format="safetensors", **wanted)


def reason(wanted: Job, kind: type[Exception] = LoadFailed) -> str:
    """Return the line with which loading fails."""
    with pytest.raises(kind) as caught:
        backends.load(wanted)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_loads_is_what_was_saved(whole: Path) -> None:
    engine: Any = backends.load(real(whole))

    saved = safetensors.load_file(whole / "model.safetensors")

    own = engine._model.state_dict()
    assert own.keys() == saved.keys()
    assert all(torch.equal(own[name], saved[name]) for name in saved)
    assert (engine.facts["param_devices"], engine.facts["param_dtypes"]) == ("cpu", "float32")


def test_weights_come_in_the_dtype_asked_for(whole: Path) -> None:
    engine = backends.load(real(whole, dtype="bfloat16"))

    assert engine.facts["param_dtypes"] == "bfloat16"


def test_tied_weights_that_are_saved_once_load_tied(tmp_path: Path) -> None:
    made: Any = backends.load(job(family("llama", tie_word_embeddings=True)))
    made._model.save_pretrained(tmp_path)

    engine: Any = backends.load(real(tmp_path))

    assert engine._model.lm_head.weight is engine._model.model.embed_tokens.weight
    assert engine.facts["parameters"] == made.facts["parameters"]


def test_a_folders_structure_can_have_random_weights(whole: Path) -> None:
    engine: Any = backends.load(job(whole))

    saved = safetensors.load_file(whole / "model.safetensors")

    assert engine._model.state_dict().keys() == saved.keys()


def cut(folder: Path) -> None:
    """Keep half of the weights' file."""
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_a_tensor(folder: Path) -> None:
    """Save all tensors but one."""
    tensors = safetensors.load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def misshapen(folder: Path) -> None:
    """Save one tensor in another shape."""
    tensors = safetensors.load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = torch.ones(90, 32)
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def without_weights(folder: Path) -> None:
    """Leave the configuration alone."""
    (folder / "model.safetensors").unlink()


def without_a_shard(folder: Path) -> None:
    """Leave an index that names a file which is not there."""
    without_weights(folder)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def with_a_torn_index(folder: Path) -> None:
    """Leave half an index."""
    without_weights(folder)
    (folder / "model.safetensors.index.json").write_text('{"metadata"')


def pickled(folder: Path) -> None:
    """Turn the weights into a pickle."""
    torch.save(safetensors.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    without_weights(folder)


def configured(**changes: Any) -> Breakage:
    """Return a breakage that changes the configuration."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("breaking", "says"),
    [
        (cut, "a weight file is truncated or damaged"),
        (without_a_tensor, "lacks 1 of the tensors that its configuration needs: lm_head"),
        (misshapen, "the shapes of the weights do not match the configuration"),
        (without_weights, "has no safetensors weights"),
        (without_a_shard, "a file that belongs to the weights is missing"),
        (with_a_torn_index, "a JSON file of the checkpoint is damaged"),
        (
            pickled,
            "only pickled weights (pytorch_model.bin), which can contain code; use --allow-pickle",
        ),
        (configured(num_attention_heads=3), "the configuration cannot be built: The hidden size"),
        (configured(hidden_size="wide"), "the configuration cannot be built: Field 'hidden_size'"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_a_broken_checkpoint_says_why(
    broken: Callable[[Breakage], Path], breaking: Breakage, says: str
) -> None:
    intact = broken(lambda _: None)
    wanted = real(intact)
    breaking(intact)
    if (intact / "config.json").exists():
        wanted = real(intact)

    line = reason(wanted)

    assert says in line
    assert str(intact) in line


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "nosuch"}, "does not support the architecture of"),
        ({"model_type": "vit"}, "no text-generating model of the family vit"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "needs a package"),
    ],
)
def test_a_checkpoint_of_another_kind_is_unsupported(
    broken: Callable[[Breakage], Path], changes: dict[str, Any], says: str
) -> None:
    line = reason(real(broken(configured(**changes))), Unsupported)

    assert says in line


def test_flash_attention_that_is_not_installed_is_unsupported(whole: Path) -> None:
    line = reason(real(whole, attn_implementation="flash_attention_2"), Unsupported)

    assert line.endswith("Use sdpa or eager instead.")


def test_pickled_weights_load_when_allowed(broken: Callable[[Breakage], Path], whole: Path) -> None:
    wanted = real(broken(pickled), protocol=Protocol(allow_pickle=True))

    engine: Any = backends.load(wanted)

    saved = safetensors.load_file(whole / "model.safetensors")
    assert torch.equal(engine._model.lm_head.weight, saved["lm_head.weight"])


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def set_by_torch(trap: Trap, folder: Path) -> None:
    """Write the trap as torch writes weights."""
    torch.save({"lm_head.weight": trap}, folder / "pytorch_model.bin")


def set_by_hand(trap: Trap, folder: Path) -> None:
    """Write the trap as a bare pickle."""
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": trap}, protocol=2))


@pytest.mark.parametrize("setting", [set_by_torch, set_by_hand])
@pytest.mark.parametrize("allow_pickle", [False, True])
def test_a_malicious_pickle_is_never_run(
    broken: Callable[[Breakage], Path], tmp_path: Path, setting: Any, allow_pickle: bool
) -> None:
    sprung = tmp_path / "sprung"
    folder = broken(without_weights)
    setting(Trap(sprung), folder)

    line = reason(real(folder, protocol=Protocol(allow_pickle=allow_pickle)))

    assert ("none of their code was run" if allow_pickle else "--allow-pickle") in line
    assert not sprung.exists()


REMOTE = """
import os
os.mkdir({sprung!r})
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def remote(broken: Callable[[Breakage], Path], tmp_path: Path) -> Path:
    """Return a checkpoint whose family is defined by a file beside it."""
    folder = broken(configured(model_type="own", auto_map=AUTO_MAP))
    (folder / "own.py").write_text(REMOTE.format(sprung=str(tmp_path / "sprung")))
    return folder


AUTO_MAP = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}


@pytest.mark.parametrize("load_format", ["safetensors", "dummy"])
def test_a_checkpoints_own_code_is_not_run(remote: Path, tmp_path: Path, load_format: str) -> None:
    line = reason(job(remote, load_format=load_format))

    assert "needs its own Python code, which was not run; use --trust-remote-code to run it" in line
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoints_own_code_runs_when_allowed(remote: Path, tmp_path: Path) -> None:
    engine = backends.load(real(remote, protocol=Protocol(allow_remote_code=True)))

    assert engine.facts["model_class"] == "OwnModel"
    assert (tmp_path / "sprung").exists()


def test_a_known_familys_own_code_is_passed_over(
    broken: Callable[[Breakage], Path], tmp_path: Path
) -> None:
    folder = broken(configured(auto_map=AUTO_MAP))
    (folder / "own.py").write_text(REMOTE.format(sprung=str(tmp_path / "sprung")))

    engine = backends.load(real(folder))

    assert engine.facts["model_class"] == "LlamaForCausalLM"
    assert not (tmp_path / "sprung").exists()


def test_a_model_without_real_weights_says_what_builds_it() -> None:
    line = reason(real(family("llama")))

    assert line == "tiny-llama has no real weights; use --load-format dummy for random ones."


def test_a_device_that_is_not_there_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    line = reason(job(family("llama"), device="cuda"))

    assert "sees no CUDA device (it is built without CUDA); use --device cpu" in line


def hub(name: str) -> Model:
    """Return a model that is only known by its hub id."""
    return msgspec.structs.replace(
        family("llama"), name=name, source="hub", location=name, model_type=None, config={}
    )


def test_a_hub_that_is_switched_off_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    line = reason(real(hub("nobody/nothing")))

    assert line.startswith("nobody/nothing is not in the local cache and the hub cannot be reached")
    assert "--load-format dummy" in line


@pytest.fixture
def refusing_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Refusing]]:
    """Put a refusing hub in the place of the real one."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    constants = "huggingface_hub.constants"
    address = f"http://127.0.0.1:{server.server_port}"
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(f"{constants}.ENDPOINT", address)
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield Refusing
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        (403, "GatedRepo", "is gated: accept its terms on the hub and set HF_TOKEN"),
        (
            404,
            "RepoNotFound",
            "is not on the hub, or it is private; set HF_TOKEN to read a private one",
        ),
        (404, "RevisionNotFound", "has no such revision; check the option `revision`"),
    ],
)
def test_what_the_hub_refuses_is_said(
    refusing_hub: type[Refusing], monkeypatch: pytest.MonkeyPatch, code: int, error: str, says: str
) -> None:
    monkeypatch.setattr(refusing_hub, "code", code)
    monkeypatch.setattr(refusing_hub, "reason", error)

    assert says in reason(real(hub("nobody/nothing")))


def test_the_tokenizer_reads_text_and_bounds_the_vocabulary(trained_checkpoint: Path) -> None:
    engine: Any = backends.load(real(trained_checkpoint))

    ids = engine.tokenize("def main():\n    return 1\n" * 500)

    assert engine._tokenizer.decode(ids[:7]).startswith("def main():")
    assert not engine.special_ids & set(ids)
    assert engine.special_ids == {0, 1}
    assert engine.vocab_size == len(engine._tokenizer) == 1024


def test_rows_beyond_the_tokenizer_are_no_vocabulary(
    trained_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "padded"
    shutil.copytree(trained_checkpoint, folder)
    configured(vocab_size=1088)(folder)

    engine = backends.load(job(folder))

    assert engine.vocab_size == 1024


def test_text_without_a_tokenizer_says_why(whole: Path) -> None:
    engine = backends.load(real(whole))

    with pytest.raises(LoadFailed, match="has no tokenizer"):
        engine.tokenize("text")


def test_random_weights_of_the_catalogue_have_no_tokenizer() -> None:
    engine = backends.load(job("llama-7b@tiny"))

    with pytest.raises(LoadFailed, match="has no tokenizer with dummy weights"):
        engine.tokenize("text")


def test_generation_settings_of_a_checkpoint_are_recorded(trained_checkpoint: Path) -> None:
    engine = backends.load(real(trained_checkpoint))

    ignored = engine.facts["generation_config_ignored"]

    assert "eos_token_id=1" in ignored
    assert "temperature=0.7" in ignored


@pytest.fixture
def eager_to_stop(trained_checkpoint: Path, tmp_path: Path) -> Path:
    """Return the trained checkpoint, changed so that its end of sequence is always the likeliest token."""
    folder = tmp_path / "stops"
    shutil.copytree(trained_checkpoint, folder)
    tensors = safetensors.load_file(folder / "model.safetensors")
    # A head of zeros makes all logits equal; the first of equals, id 0, is taken, and made the end.
    tensors["lm_head.weight"] = torch.zeros_like(tensors["lm_head.weight"])
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "generation_config.json").read_text())
    end = {**settings, "eos_token_id": 0, "do_sample": False}
    end.pop("temperature")
    (folder / "generation_config.json").write_text(json.dumps(end))
    return folder


@pytest.mark.parametrize("loop", ["forward", "generate"])
def test_a_model_that_wants_to_stop_is_not_let(eager_to_stop: Path, loop: str) -> None:
    wanted = real(eager_to_stop, loop=loop)
    engine = backends.load(wanted)
    engine.prepare(wanted.cells[0])

    tokens = engine.generate(prompts(wanted), 8)

    assert tokens == [[0] * 8, [0] * 8], "the end of sequence, eight times"


def test_none_inside_a_generation_config_would_have_let_it(eager_to_stop: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(eager_to_stop)
    settings = transformers.GenerationConfig(eos_token_id=None, max_new_tokens=8, do_sample=False)

    tokens = model.generate(torch.tensor([[5, 6, 7]]), generation_config=settings)

    assert tokens.shape[1] - 3 == 1, "one token of eight"
