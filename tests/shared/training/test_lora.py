from pathlib import Path

import pytest
import torch

from components.rft.settings import RFTSettings
from components.rl_exploration.settings import ExplorationSettings
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.policy.saving import save_policy
from components.shared.training.lora import LoRASettings, linear_layers, load_for_training, merged
from tests.merging import assert_merged_once

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_all_weights_are_trained_unless_a_rank_is_given(tiny_policy: Path) -> None:
    model, adapters = load_for_training(Policy(tiny_policy), LoRASettings(), "auto", "rl")
    assert adapters is None and all(parameter.requires_grad for parameter in model.parameters())
    assert merged(model, Policy(tiny_policy)) is model


def test_all_linear_layers_but_the_output_layer_get_an_adapter(tiny_policy: Path) -> None:
    model, adapters = load_for_training(Policy(tiny_policy), LoRASettings(rank=4), "float32", "rl")
    assert linear_layers(model) == LAYERS
    assert adapters and set(adapters.target_modules) == set(LAYERS)


@pytest.mark.parametrize("target", ["q_prj", "lm_head", "embed_tokens", "model"])
def test_a_target_that_can_have_no_adapter_is_an_error_that_lists_those_that_can(
    tiny_policy: Path, target: str
) -> None:
    settings = LoRASettings(rank=4, targets=["v_proj", target])
    with pytest.raises(InputError, match=rf"rft.lora.targets: '{target}' names no .*; there are {', '.join(LAYERS)}"):
        load_for_training(Policy(tiny_policy), settings, "float32", "rft")


def test_quantising_without_a_gpu_or_without_adapters_is_an_error(
    tiny_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="rl.lora.quantize needs a GPU"):
        load_for_training(Policy(tiny_policy), LoRASettings(rank=4, quantize=True), "auto", "rl")
    with pytest.raises(InputError, match="rft.lora.*quantize needs a rank"):
        RFTSettings.check({"lora": {"quantize": True}}, "rft")


def test_an_unknown_key_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(InputError, match="'rl.lora.rnk'. Did you mean 'rank'"):
        ExplorationSettings.check({"steps": 1, "lora": {"rnk": 8}}, "rl")


@pytest.mark.parametrize("targets", [[], ["v_proj"]])
def test_merging_leaves_the_model_in_training_and_its_random_numbers_alone(
    tiny_policy: Path, tmp_path: Path, targets: list[str]
) -> None:
    from peft import get_peft_model

    model, adapters = load_for_training(Policy(tiny_policy), LoRASettings(rank=4, targets=targets), "float32", "rl")
    live = get_peft_model(model, adapters)
    for name, parameter in live.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = {name: weight.clone() for name, weight in live.state_dict().items()}
    random = torch.get_rng_state()
    whole = [merged(live, Policy(tiny_policy)), merged(live, Policy(tiny_policy))]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(weight, before[name]) for name, weight in live.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), whole[1].parameters(), strict=True))
    save_policy(whole[0], Policy(tiny_policy), tmp_path / "saved")
    assert_merged_once(live, tiny_policy, tmp_path / "saved", set(targets or LAYERS))


def test_frozen_weights_in_half_precision_do_not_round_the_policys_own(tiny_policy: Path) -> None:
    from peft import get_peft_model

    model, adapters = load_for_training(Policy(tiny_policy), LoRASettings(rank=4), "bfloat16", "rl")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    whole = merged(get_peft_model(model, adapters), Policy(tiny_policy))  # B is 0: nothing has been learnt
    own = Policy(tiny_policy).load_model().state_dict()
    assert all(torch.equal(weight, own[name]) for name, weight in whole.state_dict().items())
