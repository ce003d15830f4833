"""Whether a saved policy is a live model with adapters, merged exactly once: computed here from A and B themselves."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from components.shared.policy import Policy
from components.shared.policy.checks import check_policy


def layout(policy: Path) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """The tensors' names, kinds and shapes."""
    return {name: (w.dtype, w.shape) for name, w in load_file(policy / "model.safetensors").items()}


def assert_merged_once(live: Any, initial: Path, saved: Path, targets: set[str]) -> None:
    """A saved policy is the initial one plus alpha / rank x B A in each target and nothing else."""
    check_policy(saved, "saved")
    assert {file.name for file in saved.iterdir()} == {file.name for file in initial.iterdir()}
    for file in initial.iterdir():
        if file.suffix != ".safetensors":
            assert (saved / file.name).read_bytes() == file.read_bytes()
    assert layout(saved) == layout(initial)

    parts, config = dict(live.named_parameters()), live.peft_config["default"]
    before, after = (load_file(policy / "model.safetensors") for policy in (initial, saved))
    changed = set()
    for name, weight in before.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{layer}.lora_A.default.weight" not in parts:
            assert torch.equal(after[name], weight), f"{name} has no adapter"
            continue
        a, b = (parts[f"{layer}.lora_{part}.default.weight"].detach() for part in "AB")
        difference = config.lora_alpha / config.r * (b @ a)
        assert difference.abs().max() > 1e-6, f"the adapter of {name} learnt nothing"
        torch.testing.assert_close(after[name] - weight, difference, rtol=1e-3, atol=2e-7)
        changed.add(name.removesuffix(".weight").rpartition(".")[2])
    assert changed == targets

    prompts = Policy(saved).prompt_token_ids(["Use 3 7 2 to make 13.", "Use 1 2 3 to make 6."])
    with torch.no_grad():
        for ids in map(torch.tensor, prompts):
            ours, its = (model.eval()(ids[None]).logits for model in (Policy(saved).load_model(), live))
            torch.testing.assert_close(ours, its, rtol=1e-4, atol=1e-4)
            assert (ours - Policy(initial).load_model()(ids[None]).logits).abs().max() > 0.01
