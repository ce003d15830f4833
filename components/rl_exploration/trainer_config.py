"""What RL exploration samples with: TRL's settings of the engine, and whether a server of its own can be used."""

import urllib.request
from typing import Any

from components.rl_exploration.settings import ExplorationSettings
from components.shared.errors import InputError
from components.shared.policy.policy import accelerator
from components.shared.sampling.base import Engine


def trl_arguments(engine: Engine, settings: ExplorationSettings, length: int, eos_ids: set[int]) -> dict[str, Any]:
    """TRL's settings of the sampling engine; `length` is that of the longest prompt and its completion."""
    if engine == "transformers":
        return {}
    common = {"use_vllm": True, "generation_kwargs": {"stop_token_ids": sorted(eos_ids)}}
    if settings.vllm_server:
        return {**common, "vllm_mode": "server", "vllm_server_base_url": settings.vllm_server}
    return {
        **common,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": settings.gpu_memory_utilization,
        "vllm_enable_sleep_mode": settings.sleep_mode,
        "vllm_max_model_length": length,
    }


def check_server(address: str, engine: Engine) -> None:
    """Raises InputError unless there is a vLLM server and a GPU to send it weights from."""
    if engine != "vllm" or accelerator() == "cpu":
        raise InputError(
            f"rl.vllm_server ({address}) gets its weights from a GPU, and this stage has none or no vLLM; leave it out"
        )
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=30):
            pass
    except (OSError, ValueError) as error:
        raise InputError(
            f"rl.vllm_server: nothing that is healthy answers at {address} ({error}); start it (docs/engines.md), or "
            f"leave the key out for vLLM beside the trainer"
        ) from None
