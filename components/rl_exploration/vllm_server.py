"""The vLLM server that RL may sample from instead of an engine beside the trainer."""

import urllib.request

from components.shared.accelerator import accelerator
from components.shared.errors import InputError
from components.shared.sampling.engines import Engine


def check_server(address: str, engine: Engine) -> None:
    """Raises InputError unless there is a healthy vLLM server, and a GPU to send it weights from."""
    if engine != "vllm" or accelerator() == "cpu":
        raise InputError(
            f"rl.vllm_server ({address}) gets its weights from a GPU, and this stage has no GPU or no vLLM; leave it "
            f"out"
        )
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=30):
            pass
    except (OSError, ValueError) as error:
        raise InputError(
            f"rl.vllm_server: no healthy server answers at {address} ({error}); start it (docs/engines.md), or leave "
            f"the key out for vLLM beside the trainer"
        ) from None
