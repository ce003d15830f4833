import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.policy.checks import check_policy
from components.shared.policy.expected_tensors import expected_tensors
from components.shared.policy.weight_checks import check_numbers, check_weights
from components.shared.policy.weights import local_weights

Weights = dict[str, torch.Tensor]


@pytest.fixture
def changed(tmp_path: Path, tiny_policy: Path) -> Callable[..., Path]:
    """The tiny policy with other weights and another config."""

    def change(alter: Callable[[Weights], Weights], **config: Any) -> Path:
        folder = tmp_path / "policy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny_policy, folder)
        save_file(alter(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        return folder

    return change


def renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key.replace(old, new, 1): value for key, value in weights.items()}


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if part not in key}


def with_one(key: str, value: torch.Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, key: value}


@pytest.mark.parametrize(
    ("alter", "config", "message"),
    [
        (renamed("model.", ""), {}, "names lack 'model.', such as .* save it again with save_pretrained"),
        (renamed("model.", "module.model."), {}, "38 tensors come from a wrapper, such as 'module.model"),
        (renamed("model.", "_orig_mod.model."), {}, "tensors come from a wrapper"),
        (renamed("model.layers", "model._fsdp_wrapped_module.layers"), {}, "tensors come from a wrapper"),
        (renamed("model.", "transformer."), {}, "missing are 38 of 38 tensors: .*; unexpected are 38: transformer."),
        (without("layers.1."), {}, "missing are 12 of 38 tensors: model.layers.1.self_attn"),
        (without("embed"), {}, "missing are 1 of 38 tensors: model.embed_tokens.weight"),
        (lambda w: w, {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}, "unexpected are 12: model.lay"),
        (lambda w: w, {"intermediate_size": 128}, r"of another shape are 9: .*\[256, 96\] for \[128, 96\]"),
        (lambda w: w, {"vocab_size": 300}, r"model.embed_tokens.weight \[266, 96\] for \[300, 96\]"),
        (lambda w: w, {"tie_word_embeddings": False}, "missing are 1 of 39 tensors: lm_head.weight"),
        (lambda w: w, {"model_type": "llama"}, "unexpected are 9: model.layers.0.self_attn.._proj.bias"),
        (with_one("value_head.weight", torch.zeros(1, 96)), {}, "unexpected are 1: value_head.weight"),
        (with_one("model.layers.0.self_attn.q_proj.lora_A.weight", torch.zeros(2, 96)), {}, "is an adapter, or"),
        (with_one("model.norm.weight", torch.zeros(96, dtype=torch.int8)), {}, "model.norm.weight is I8.*quantised"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_the_config_are_named(
    changed: Callable[..., Path], alter: Callable[[Weights], Weights], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"base policy 'mine'.*{message}"):
        check_policy(changed(alter, **config), "mine")


def test_tied_weights_and_buffers_are_no_fault(changed: Callable[..., Path]) -> None:
    embeddings = "model.embed_tokens.weight"
    check_policy(changed(lambda w: {**w, "lm_head.weight": w[embeddings].clone()}), "mine")
    check_policy(changed(with_one("model.layers.0.self_attn.rotary_emb.inv_freq", torch.zeros(16))), "mine")
    check_policy(changed(lambda w: {key: value.bfloat16() for key, value in w.items()}), "mine")


@given(st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_lost_renamed_or_misshapen_tensor_passes(tiny_policy: Path, data: st.DataObject) -> None:
    config = json.loads((tiny_policy / "config.json").read_text())
    files = local_weights(tiny_policy, "mine")
    check_weights(config, files, "mine")
    header = files.headers["model.safetensors"]
    tensor = data.draw(st.sampled_from(sorted(header)))
    entry = header.pop(tensor)
    if data.draw(st.booleans()):
        header[data.draw(st.sampled_from(["x", f"{tensor}.", f"a.{tensor}", tensor.upper()]))] = entry
    elif data.draw(st.booleans()):
        header[tensor] = entry._replace(shape=(*entry.shape[:-1], entry.shape[-1] + data.draw(st.integers(1, 9))))
    with pytest.raises(InputError, match="do not fit config.json"):
        check_weights(config, files, "mine")


SMALL = {
    "vocab_size": 50, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("mistral", {"head_dim": 8}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
        ("qwen3", {"attention_bias": True}),
    ],
)
def test_what_is_written_down_of_a_class_is_what_the_class_has(kind: str, more: dict[str, Any], tied: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {"model_type": kind, **SMALL, **more, "tie_word_embeddings": tied}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    expected = expected_tensors(config, "mine")
    assert expected and expected.required | expected.optional == shapes
    assert set(expected.optional) == ({"lm_head.weight"} if tied else set())


def test_other_classes_are_asked(tmp_path: Path) -> None:
    """GPT-2: names of its own in config and weights, and published without the prefix."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    weights = load_file(tmp_path / "model.safetensors")
    check_weights(values, local_weights(tmp_path, "mine"), "mine")
    bare = {key.removeprefix("transformer."): value for key, value in weights.items()}
    bare["h.0.attn.bias"] = torch.zeros(1, 1, 32, 32)  # a buffer that older versions saved
    save_file(bare, tmp_path / "model.safetensors", {"format": "pt"})
    check_weights(values, local_weights(tmp_path, "mine"), "mine")
    save_file(without("h.1.mlp")(bare), tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="missing are 4 of .* tensors: transformer.h.1.mlp"):
        check_weights(values, local_weights(tmp_path, "mine"), "mine")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import json
from components.shared.errors import InputError
from components.shared.policy.weight_checks import check_weights
from components.shared.policy.weights import local_weights
files = local_weights(sys.argv[1], "mine")
config = json.load(open(sys.argv[1] + "/config.json"))
del config["layer_types"]
check_weights(config, files, "mine")
check_weights(config | {"model_type": "gemma2"}, files, "mine")
for change in ({"vocab_size": 300}, {"model_type": "gemma2", "num_hidden_layers": 4}):
    try:
        check_weights(config | change, files, "mine")
    except InputError as error:
        print(error)
"""


def test_an_adapter_is_said_to_be_one(tmp_path: Path, tiny_policy: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"base_model.model.q_proj.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="base policy 'mine' is an adapter, or contains one .*merge_and_unload"):
        check_policy(tmp_path, "mine")
    beside = Path(shutil.copytree(tiny_policy, tmp_path / "beside"))
    shutil.copy(tmp_path / "adapter_config.json", beside)
    with pytest.raises(InputError, match="is an adapter, or contains one"):
        check_policy(beside, "mine")


def test_without_torch_llama_and_its_like_are_known_and_others_must_have_their_layers(tiny_policy: Path) -> None:
    program = [sys.executable, "-c", WITHOUT_TORCH, str(tiny_policy)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    known, other = done.stdout.splitlines()
    assert "[266, 96] for [300, 96]" in known
    assert other.endswith("there are layers 0 to 2, but config.json says 4")


def test_several_files_are_whole_and_of_one_model(tiny_policy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "policy"))
    Policy(tiny_policy).load_model().save_pretrained(folder, max_shard_size="500KB")
    (folder / "model.safetensors").unlink()
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    check_policy(folder, "mine")
    stray = shutil.copy(shards[0], folder / "old.safetensors")
    with pytest.raises(InputError, match="old.safetensors is beside the weights"):
        check_policy(folder, "mine")
    stray.unlink()
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:-10])
    with pytest.raises(InputError, match=f"{shards[1].name} has .* bytes, but its header describes .* cut off"):
        check_policy(folder, "mine")
    shards[1].unlink()
    with pytest.raises(InputError, match=f"names {shards[1].name}, which is missing; fetch all"):
        check_policy(folder, "mine")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match="missing are"):
        check_policy(folder, "mine")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_numbers_that_are_none_are_found(changed: Callable[..., Path], value: float, kind: torch.dtype) -> None:
    def poison(weights: Weights) -> Weights:
        weights = {key: tensor.to(kind) for key, tensor in weights.items()}
        weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        return weights

    folder = changed(lambda weights: {key: tensor.to(kind) for key, tensor in weights.items()})
    check_numbers(folder, local_weights(folder, "mine"), "mine")
    folder = changed(poison)
    with pytest.raises(InputError, match=r"mine.*model.layers.1.mlp.up_proj.weight in .* contains NaN or infinity"):
        check_numbers(folder, local_weights(folder, "mine"), "mine")
    with pytest.raises(
        InputError, match="1 of its tensors contain NaN or infinity, such as model.layers.1.mlp.up_proj"
    ):
        Policy(folder).load_model()


def test_a_model_with_random_numbers_in_it_is_not_loaded(changed: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="lack 12 tensors that the model has, such as model.layers.1"):
        Policy(changed(without("layers.1."))).load_model()


def test_an_output_layer_that_is_tied_and_differs_is_refused(changed: Callable[..., Path]) -> None:
    folder = changed(with_one("lm_head.weight", torch.zeros(266, 96)))
    with pytest.raises(InputError, match="tie_word_embeddings"):
        check_numbers(folder, local_weights(folder, "mine"), "mine")
