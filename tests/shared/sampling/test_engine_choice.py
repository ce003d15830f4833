import importlib.machinery
import importlib.util
from pathlib import Path

import pytest

from components.evaluation.settings import EvaluationSettings
from components.shared.errors import InputError
from components.shared.sampling import engines
from components.shared.sampling.engines import SamplerSettings, chosen_engine


def machine(monkeypatch: pytest.MonkeyPatch, vllm: bool, device: str) -> None:
    found = importlib.machinery.ModuleSpec("vllm", None) if vllm else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(engines, "accelerator", lambda: device)


@pytest.mark.parametrize(
    ("vllm", "device", "engine"),
    [
        (True, "cuda", "vllm"),
        (True, "cpu", "transformers"),
        (False, "cuda", "transformers"),
        (False, "cpu", "transformers"),
    ],
)
def test_auto_is_vllm_where_it_is_installed_and_a_gpu_is_there(
    monkeypatch: pytest.MonkeyPatch, vllm: bool, device: str, engine: str
) -> None:
    machine(monkeypatch, vllm, device)
    assert chosen_engine("auto") == engine
    assert chosen_engine("transformers") == "transformers"


def test_vllm_where_it_is_not_installed_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, vllm=True, device="cpu")
    assert chosen_engine("vllm") == "vllm"
    machine(monkeypatch, vllm=False, device="cpu")
    with pytest.raises(InputError, match="not installed here: use images of the cuda variant"):
        chosen_engine("vllm")


@pytest.mark.parametrize(("there", "wanted"), [(2, 2), (4, 2), (2, 3)])
def test_a_policy_that_cannot_be_spread_over_the_gpus_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tiny_policy: Path, there: int, wanted: int
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(InputError, match=f"3 attention heads cannot be spread over {wanted} of .* {there} GPUs"):
        SamplerSettings(tiny_policy, "vllm", batch_size=4, tensor_parallel_size=wanted).open()


def test_another_engine_is_an_error() -> None:
    with pytest.raises(InputError, match=r"eval\.engine.*'auto', 'vllm' or 'transformers'"):
        EvaluationSettings.check({"engine": "sglang"}, "eval")
