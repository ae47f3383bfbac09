"""A stand-in for vLLM: the names that the backend uses, over an engine core that schedules as the real one does.

It computes nothing: every new token is 7. `tests/test_vllm_real.py` compares it with the installed vLLM, name by
name and step by step, to keep both in agreement.
"""

from __future__ import annotations

import enum
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "0.0.standin"
BLOCK, BLOCKS, BLOCK_BYTES = 16, 65, 1000
BUDGET, MOST_SEQUENCES, LONGEST = 64, 8, 128
ARCHITECTURES = ("LlamaForCausalLM", "MptForCausalLM")


class RequestOutputKind(enum.Enum):
    FINAL_ONLY = 2


class LoRARequest(SimpleNamespace):
    """What names an adapter."""

    def __init__(self, lora_name: str, lora_int_id: int, lora_path: str) -> None:
        super().__init__(lora_name=lora_name, lora_int_id=lora_int_id, lora_path=lora_path)


class UsageContext(enum.StrEnum):
    LLM_CLASS = "LLM_CLASS"


class CompilationMode(enum.IntEnum):
    NONE = 0
    VLLM_COMPILE = 3


class EngineArgs(SimpleNamespace):
    """An object with any attributes."""


class MultiprocExecutor(SimpleNamespace):
    """What holds the ranks of a box; nothing here starts one."""


class SamplingParams(SimpleNamespace):
    """An object with any attributes."""


class Request:
    """One request in the scheduler: tokens computed and tokens returned."""

    def __init__(self, name: str, prompt: list[int], wanted: Any) -> None:
        self.name, self.prompt, self.wanted = name, prompt, wanted
        self.computed = 0
        self.new: list[int] = []

    @property
    def blocks(self) -> int:
        return -(-self.computed // BLOCK)


class Scheduler:
    """Decodes running requests, then prefills with the rest of the step's budget, in order of arrival."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.kv_cache_manager = self

    def make_spec_decoding_stats(self, stats: Any, **counted: Any) -> Any:
        del counted
        return stats

    @property
    def usage(self) -> float:
        return sum(request.blocks for request in self.requests) / (BLOCKS - 1)

    def schedule(self, throttle_prefills: bool = False) -> list[Request]:
        """Return the requests that get a token in this step."""
        del throttle_prefills
        budget, due = BUDGET, []
        for request in self.requests:
            left = len(request.prompt) + len(request.new) - request.computed
            taken = min(left, budget)
            budget -= taken
            request.computed += taken
            if taken and taken == left:
                due.append(request)
        return due


class Core:
    """The engine core: one step a call, stamped with the monotonic clock."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.engine_core = self  # the client of a core in this process holds it by this name
        self.open = True
        self.drafted = 0

    def get_output(self) -> Any:
        due = self.scheduler.schedule()
        outputs = []
        for request in due:
            brought = [7] * self._brought(request)
            request.new += brought
            outputs.append(SimpleNamespace(request_id=request.name, new_token_ids=brought))
        return SimpleNamespace(outputs=outputs, timestamp=time.monotonic())

    def _brought(self, request: Request) -> int:
        """Return how many tokens a pass brings: with drafts, one of them is accepted where the answer has room."""
        if not self.drafted or not request.new:
            return 1
        brought: int = min(2, request.wanted.max_tokens - len(request.new))
        self.scheduler.make_spec_decoding_stats(
            None,
            num_draft_tokens=self.drafted,
            num_accepted_tokens=1,
            num_invalid_spec_tokens=None,
            request_id="",
        )
        return brought

    def shutdown(self) -> None:
        self.open = False


class LLMEngine:
    """The engine that the backend steps."""

    cached_tokens = 0
    seen: ClassVar[dict[str, Any]] = {
        "parameters": 10,
        "weights_bytes": 40,
        "kv_pool_bytes": BLOCKS * BLOCK_BYTES,
        "adapter_bytes": 0,
        "param_devices": "cpu",
        "param_dtypes": "float32",
    }

    def __init__(self, arguments: Any) -> None:
        self.arguments = arguments
        self.engine_core = Core()
        drafts = getattr(arguments, "speculative_config", {})
        self.engine_core.drafted = drafts.get("num_speculative_tokens", 0)
        self.adapters: list[Any] = []
        self.vllm_config = SimpleNamespace(
            cache_config=SimpleNamespace(
                kv_cache_size_tokens=BLOCKS * BLOCK, num_gpu_blocks=BLOCKS, block_size=BLOCK,
                cache_dtype="auto", enable_prefix_caching=arguments.enable_prefix_caching,
            ),
            scheduler_config=SimpleNamespace(
                max_num_seqs=MOST_SEQUENCES, max_num_batched_tokens=BUDGET,
                enable_chunked_prefill=True, async_scheduling=False,
            ),
            model_config=SimpleNamespace(
                max_model_len=LONGEST, enforce_eager=False, dtype=SimpleNamespace(itemsize=4),
            ),
            compilation_config=SimpleNamespace(
                mode=CompilationMode.NONE, cudagraph_mode=None, cudagraph_capture_sizes=[],
                compilation_time=0.0,
            ),
        )  # fmt: skip

    @classmethod
    def from_engine_args(cls, engine_args: Any, usage_context: Any) -> LLMEngine:
        assert usage_context is UsageContext.LLM_CLASS
        return cls(engine_args)

    def collective_rpc(self, method: str) -> list[dict[str, Any]]:
        assert method == "llmbench_seen"
        return [dict(self.seen)]

    def add_request(
        self, request_id: str, prompt: Any, params: Any, lora_request: Any = None
    ) -> str:
        self.adapters.append(lora_request)
        name = f"{request_id}-{len(self.engine_core.scheduler.requests)}x"
        request = Request(name, prompt["prompt_token_ids"], params)
        self.engine_core.scheduler.requests.append(request)
        return name

    def has_unfinished_requests(self) -> bool:
        return bool(self.engine_core.scheduler.requests)

    def step(self) -> list[Any]:
        self.engine_core.get_output()
        return list(self._finished())

    def _finished(self) -> Iterator[Any]:
        running = self.engine_core.scheduler.requests
        for request in list(running):
            if len(request.new) == request.wanted.max_tokens:
                running.remove(request)
                yield SimpleNamespace(
                    request_id=request.name.split("-")[0],
                    finished=True,
                    num_cached_tokens=self.cached_tokens,
                    outputs=[SimpleNamespace(token_ids=request.new, logprobs=_logprobs(request))],
                    prompt_logprobs=_of_prompt(request),
                )


def _logprobs(request: Request) -> list[dict[int, Any]]:
    return [{token: SimpleNamespace(logprob=-1.0)} for token in request.new]


def _of_prompt(request: Request) -> list[dict[int, Any] | None]:
    """Return a model that always likes 7 best."""
    best = {7: SimpleNamespace(logprob=-1.0)}
    return [
        None,
        *(
            best | {token: SimpleNamespace(logprob=-1.0 - (token != 7))}
            for token in request.prompt[1:]
        ),
    ]


class Platform:
    """A vLLM that is built for CPUs."""

    device_type = "cpu"

    def is_cuda_alike(self) -> bool:
        return self.device_type == "cuda"

    def get_device_name(self) -> str:
        return "cpu"


class ModelRegistry:
    @staticmethod
    def get_supported_archs() -> tuple[str, ...]:
        return ARCHITECTURES


REGISTRY = {
    "ModelRegistry": ModelRegistry,
    "_PREVIOUSLY_SUPPORTED_MODELS": {"JAISLMHeadModel": "0.22.0"},
    "_OOT_SUPPORTED_MODELS": {"BartForConditionalGeneration": "https://example.org/plugin"},
}

MODULES: dict[str, dict[str, Any]] = {
    "vllm": {"__version__": VERSION},
    "vllm.config": {"CompilationMode": CompilationMode},
    "vllm.engine": {},
    "vllm.engine.arg_utils": {"EngineArgs": EngineArgs},
    "vllm.lora": {},
    "vllm.lora.request": {"LoRARequest": LoRARequest},
    "vllm.model_executor": {},
    "vllm.model_executor.layers": {},
    "vllm.model_executor.layers.quantization": {"QUANTIZATION_METHODS": ["awq", "fp8"]},
    "vllm.model_executor.models": {},
    "vllm.model_executor.models.registry": REGISTRY,
    "vllm.platforms": {"current_platform": Platform()},
    "vllm.sampling_params": {
        "RequestOutputKind": RequestOutputKind,
        "SamplingParams": SamplingParams,
    },
    "vllm.usage": {},
    "vllm.usage.usage_lib": {"UsageContext": UsageContext},
    "vllm.v1": {},
    "vllm.v1.engine": {},
    "vllm.v1.executor": {},
    "vllm.v1.engine.llm_engine": {"LLMEngine": LLMEngine},
    "vllm.v1.executor.multiproc_executor": {"MultiprocExecutor": MultiprocExecutor},
}
"""The names that the backend imports from vLLM."""


def modules() -> dict[str, ModuleType]:
    """Return the modules, each an attribute of its package, for `sys.modules`."""
    made: dict[str, ModuleType] = {}
    for name, names in MODULES.items():
        made[name] = module = ModuleType(name)
        vars(module).update(names)
        package, _, last = name.rpartition(".")
        if package:
            setattr(made[package], last, module)
    return made


def forget() -> None:
    """Have our modules that imported vLLM, the stand-in or the real one, imported anew."""
    package = sys.modules.get("llmbench.backends")
    for name in list(sys.modules):
        if name.startswith("llmbench.backends.vllm"):
            del sys.modules[name]
    if package:
        vars(package).pop("vllm", None)
