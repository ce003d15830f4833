"""LoRA and QLoRA: training low-rank adapters instead of all weights, and merging them once into the policy.

A linear layer's W becomes W + alpha / rank x B A, of which B and A are trained (Hu et al. 2021, arXiv 2106.09685).
What a stage hands on is an ordinary policy with the sum as its weights. The sum is computed from the weights in the
initial policy's folder, in single precision, and never from the model in training, whose weights may be rounded or
quantised and which must stay unchanged for further training.
"""

import copy
import importlib.util
import os
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from components.shared.accelerator import gpu_has_bfloat16, training_precision
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.settings import Settings

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


class LoRASettings(Settings):
    """Whether adapters are trained instead of all weights, and which."""

    rank: int = Field(
        0,
        ge=0,
        description="Rank of the adapters that are trained instead of the weights, such as 16; 0 trains all weights. "
        "Adapters need a learning rate about ten times as high.",
    )
    alpha: float = Field(
        32.0, gt=0, description="Scaling of the adapters: each is multiplied by alpha / rank. TRL's default."
    )
    targets: list[str] = Field(
        [],
        description="Linear layers that get an adapter, such as [q_proj, v_proj]; if empty, all except the output "
        "layer.",
    )
    quantize: bool = Field(
        False, description="Hold the frozen weights in 4 bits while training (QLoRA). Needs a GPU and bitsandbytes."
    )

    @model_validator(mode="after")
    def _check_quantize(self) -> Self:
        if self.quantize and not self.rank:
            raise ValueError("quantize needs a rank of at least 1: quantised weights cannot be trained themselves")
        return self


ALL_WEIGHTS = LoRASettings()


def load_for_training(
    policy: Policy, settings: LoRASettings, precision: str, section: str
) -> tuple["PreTrainedModel", "LoraConfig | None"]:
    """Loads a policy's model as a TRL trainer takes it, and makes its `peft_config`.

    Args:
        policy: The policy that training starts from.
        settings: The recipe's `rl.lora` or `rft.lora`.
        precision: The recipe's `rl.precision` or `rft.precision`. Weights that are trained are in single precision in
            any case; frozen ones are in the precision that they are used in.
        section: Recipe section, for messages.

    Returns:
        The model, and the adapters to add to it; None if all weights are trained.

    Raises:
        InputError: A target is not one of the model's linear layers, or a requirement of quantisation is missing.
    """
    if not settings.rank:
        return policy.load_model(), None
    from peft import LoraConfig

    if settings.quantize:
        model = policy.load_model("bfloat16", **_four_bits(section))
    else:
        model = policy.load_model("bfloat16" if training_precision(precision)["bf16"] else "float32")
    layers = linear_layers(model)
    if unknown := [name for name in settings.targets if name not in layers]:
        raise InputError(
            f"{section}.lora.targets: {', '.join(map(repr, unknown))} names no linear layer of the policy that can get "
            f"an adapter; there are {', '.join(layers)}"
        )
    adapters = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=settings.targets or layers, task_type="CAUSAL_LM"
    )
    return model, adapters


def linear_layers(model: "PreTrainedModel") -> list[str]:
    """Returns the names of the linear layers in a model's blocks, in order, without the output layer."""
    from torch.nn import Linear

    head = model.get_output_embeddings()
    found = (name for name, module in model.named_modules() if isinstance(module, Linear) and module is not head)
    return list(dict.fromkeys(name.rpartition(".")[2] for name in found))


def merged(model: Any, initial_policy: Policy) -> "PreTrainedModel":
    """Returns a trained model with its adapters merged into the initial policy's weights, in single precision, on CPU.

    Args:
        model: The model, during training or at its end; it and the random state it trains with stay unchanged.
        initial_policy: The policy that training started from.

    Returns:
        A separate model; without adapters, the same model. If the model is sharded over processes, each of which has
        to call this, rank 0 gets a separate model and the others get theirs unchanged.
    """
    import torch
    from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if not weights:  # only rank 0 has them
            return model  # type: ignore[no-any-return]
        gathered = initial_policy.load_model()
        gathered.load_state_dict(weights)
        return gathered
    if not isinstance(model, PeftModel):
        return model  # type: ignore[no-any-return]
    with torch.random.fork_rng(devices=[]):  # new adapters are initialised at random before they get their weights
        adapted = get_peft_model(initial_policy.load_model(), copy.deepcopy(model.peft_config["default"]))
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(model, save_embedding_layers=False))
    return adapted.merge_and_unload()


def _four_bits(section: str) -> dict[str, Any]:
    """Returns arguments that load a model in QLoRA's format: NormalFloat with double quantisation (arXiv 2305.14314).

    Raises:
        InputError: There is no suitable GPU, or no bitsandbytes.
    """
    if not gpu_has_bfloat16():
        raise InputError(
            f"{section}.lora.quantize needs a GPU that computes in bfloat16, and there is none; turn it off"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"{section}.lora.quantize needs the package bitsandbytes: pip install bitsandbytes")
    import torch
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": quantization, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}
