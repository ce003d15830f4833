from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.policy.model_size import ModelSize
from components.shared.sampling.placement import Placement, SamplingParallelSettings, place, place_vllm

GIB = 2**30


def model(billions: float, layers: int, hidden: int, inner: int, heads: int, keys: int) -> ModelSize:
    config = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "head_dim": 128,
        "vocab_size": 152_064,
        "model_type": "qwen2",
    }
    return ModelSize.with_parameters(config, round(billions * 1e9))


SMALL = model(1.54, 28, 1536, 8960, 12, 2)  # Qwen2.5-Math-1.5B
MEDIUM = model(7.62, 28, 3584, 18944, 28, 4)  # Qwen2.5-Math-7B
LARGE = model(32.8, 64, 5120, 27648, 40, 8)  # Qwen2.5-32B
LARGEST = model(72.7, 80, 8192, 29568, 64, 8)  # Qwen2.5-72B


def parallel(replicas: int | None, tensor_parallel_size: int | None) -> SamplingParallelSettings:
    return SamplingParallelSettings(replicas=replicas, tensor_parallel_size=tensor_parallel_size)


@pytest.mark.parametrize(
    ("size", "gpus", "gib", "given", "expected"),
    [
        (SMALL, 8, 80, (None, None), (8, 1)),
        (SMALL, 1, 24, (None, None), (1, 1)),
        (MEDIUM, 8, 80, (None, None), (8, 1)),  # 28 heads: eight GPUs could not share it
        (MEDIUM, 4, 80, (None, None), (4, 1)),
        (MEDIUM, 8, 24, (None, None), (4, 2)),  # 21 sequences fit on one GPU
        (MEDIUM, 6, 24, (None, None), (3, 2)),
        (MEDIUM, 3, 24, (None, None), (3, 1)),  # three divide no 28 heads
        (LARGE, 8, 80, (None, None), (4, 2)),
        (LARGE, 8, 141, (None, None), (8, 1)),
        (LARGEST, 8, 80, (None, None), (2, 4)),
        (LARGEST, 8, 40, (None, None), (1, 8)),
        (LARGEST, 2, 40, (None, None), (1, 2)),  # fits in neither: vLLM says so
        (MEDIUM, 8, 80, (None, 4), (2, 4)),
        (MEDIUM, 8, 80, (2, None), (2, 1)),
        (LARGEST, 8, 80, (2, None), (2, 4)),
        (MEDIUM, 8, 80, (2, 2), (2, 2)),
        (MEDIUM, 8, 80, (None, 3), (2, 3)),  # leaves two idle
    ],
)
def test_the_smallest_tensor_parallel_size_with_room_and_replicas_on_all_gpus(
    size: ModelSize, gpus: int, gib: int, given: tuple[int | None, int | None], expected: tuple[int, int]
) -> None:
    placement = place_vllm(size, gpus, int(0.9 * gib * GIB), 1024, 3584, parallel(*given))
    assert placement[:2] == expected


def test_a_replica_takes_about_as_many_sequences_as_run_at_once() -> None:
    share = int(0.9 * 79 * GIB)
    assert place_vllm(MEDIUM, 8, share, 1024, 3584).at_once == 2 * 279
    assert place_vllm(MEDIUM, 8, share, 64, 3584).at_once == 64


def placed(policy: Path, **given: Any) -> Placement:
    chosen = SamplingParallelSettings.check(given, "eval.parallel")
    return place(Policy(policy), "transformers", sequences=64, tokens=100, gpu_memory_utilization=0.9, parallel=chosen)


def test_on_cpus_one_replica_unless_more_are_asked_for(tiny_policy: Path) -> None:
    assert placed(tiny_policy) == Placement(1, 1) and placed(tiny_policy, replicas=3) == Placement(3, 1)


def test_on_gpus_one_replica_each_and_no_more_than_there_are(
    monkeypatch: pytest.MonkeyPatch, tiny_policy: Path
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert placed(tiny_policy) == Placement(4, 1)
    with pytest.raises(InputError, match="eval.parallel: 5 replicas of 1 GPUs each need 5 GPUs, but this pod has 4"):
        placed(tiny_policy, replicas=5)
