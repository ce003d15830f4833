import json
import shutil
from pathlib import Path

import pytest

from components.shared.accelerator import accelerator
from components.shared.data.chat import conversation
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.policy.checks import check_policy
from components.shared.policy.saving import copy_policy, save_policy

TEXTS = ["Use 3 7 2 to make 13.", "3*2=6,6+7=13.", "what is 12345 + 678?\n\\frac{1}{2} é ∑", ""]


@pytest.fixture
def broken(tmp_path: Path, tiny_policy: Path) -> Path:
    return Path(shutil.copytree(tiny_policy, tmp_path / "policy"))


@pytest.mark.parametrize("task", ["countdown", "countdown-2", "arithmetic", "shortest_path"])
def test_a_committed_policy_is_one_and_loads_as_what_was_saved(task: str, tiny_policy: Path, tmp_path: Path) -> None:
    policy = tiny_policy.parent / task
    check_policy(policy, str(policy))
    tokenizer = Policy(policy).tokenizer
    config = json.loads((policy / "tokenizer_config.json").read_text())
    assert type(tokenizer).__name__ == config["tokenizer_class"]
    tokenizer.save_pretrained(tmp_path)
    again = Policy(tmp_path).tokenizer
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert again.encode(text) == tokenizer.encode(text)
    assert sum(file.stat().st_size for file in policy.iterdir()) < 2 << 20


def test_heads_are_large_enough_for_vllm(tiny_policy: Path) -> None:
    config = json.loads((tiny_policy / "config.json").read_text())
    assert config["hidden_size"] // config["num_attention_heads"] in (32, 64)
    assert config["use_cache"] is True


def test_saving_keeps_every_file_but_the_weights_and_leaves_the_initial_policy_alone(
    tiny_policy: Path, tmp_path: Path
) -> None:
    import torch

    before = Policy(tiny_policy).id
    model = Policy(tiny_policy).load_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.config.use_cache = False  # as a trainer would
    save_policy(model, Policy(tiny_policy), tmp_path / "saved")
    for file in tiny_policy.iterdir():
        if file.suffix != ".safetensors":
            assert (tmp_path / "saved" / file.name).read_bytes() == file.read_bytes()
    assert Policy(tiny_policy).id == before
    assert Policy(tmp_path / "saved").id != before
    loaded = Policy(tmp_path / "saved").load_model()
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)
    check_policy(tmp_path / "saved", "saved")


def test_prompt_ids_are_those_that_trl_feeds_the_policy(tiny_policy: Path) -> None:
    policy = Policy(tiny_policy)
    tokenizer = policy.tokenizer
    prompts = TEXTS[:3]
    as_trl = tokenizer.apply_chat_template(
        conversation=[conversation(p) for p in prompts], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    assert policy.prompt_token_ids(prompts) == as_trl
    rendered = tokenizer.apply_chat_template(
        [*conversation(prompts[0]), {"role": "assistant", "content": "3*2=6,6+7=13."}], tokenize=False
    )
    assert rendered == "Use 3 7 2 to make 13.\n3*2=6,6+7=13.<|end|>"
    assert policy.context_length == 2048
    assert policy.eos_token_ids == {tokenizer.eos_token_id}


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["config.json"], "has no config.json"),
        (["model.safetensors"], r"no \*.safetensors weights"),
        (["tokenizer.json"], "has no tokenizer"),
        (["chat_template.jinja"], "has no chat template"),
    ],
)
def test_a_folder_that_is_no_policy_says_what_is_missing(broken: Path, remove: list[str], message: str) -> None:
    for name in remove:
        (broken / name).unlink()
    with pytest.raises(InputError, match=message):
        check_policy(broken, "my-model")


def test_an_eos_on_which_tokenizer_and_generation_disagree_is_an_error(broken: Path) -> None:
    path = broken / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 5}))
    with pytest.raises(InputError, match="generation would not stop where"):
        check_policy(broken, "my-model")


def test_pickled_weights_and_code_are_not_copied(broken: Path, tmp_path: Path) -> None:
    (broken / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (broken / "modeling_evil.py").write_text("raise SystemExit")
    copy_policy(broken, tmp_path / "copy")
    assert not (tmp_path / "copy" / "pytorch_model.bin").exists()
    assert not (tmp_path / "copy" / "modeling_evil.py").exists()
    check_policy(tmp_path / "copy", "copy")


def test_a_prompt_without_room_for_a_completion_is_an_error(tiny_policy: Path) -> None:
    Policy(tiny_policy).check_room(["Use 3 7 2 to make 13."], 2034, "rl")
    with pytest.raises(InputError, match="takes 14 tokens; with rl.max_completion_tokens"):
        Policy(tiny_policy).check_room(["Use 3 7 2 to make 13."], 2035, "rl")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", '{"model_type": "mystery"}', "no model type 'mystery'"),
        ("config.json", '{"model_type": "qwen2", "attn_implementation": "me/kernel"}', "asks for foreign code"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1", "git-lfs pointer: fetch the file itself"),
        ("tokenizer.json", "{", "its tokenizer cannot be loaded"),
        ("chat_template.jinja", "{{ raise_exception('no') }}", "its chat template fails"),
        ("chat_template.jinja", "{% for", "its chat template fails"),
    ],
)
def test_a_broken_file_is_named(broken: Path, file: str, content: str, message: str) -> None:
    (broken / file).write_text(content)
    with pytest.raises(InputError, match=message):
        check_policy(broken, "my-model")


def test_the_checkpoints_own_sampling_is_not_ours(broken: Path) -> None:
    config = {"eos_token_id": 1, "repetition_penalty": 1.3, "min_p": 0.3, "top_k": 5, "no_repeat_ngram_size": 2}
    (broken / "generation_config.json").write_text(json.dumps(config))
    generation = Policy(broken).load_model().generation_config
    assert generation.eos_token_id == [1] and generation.pad_token_id == 0
    assert not generation.repetition_penalty and not generation.min_p and not generation.no_repeat_ngram_size


def test_a_gpu_that_torch_cannot_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU that torch can use")
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    assert accelerator() == "cpu"
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "void")
    assert accelerator() == "cpu"
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "GPU-4f2b")
    with pytest.raises(InputError, match="given the GPU GPU-4f2b, but torch .* cannot use it"):
        accelerator()


def test_the_token_that_ends_an_answer_in_the_template(broken: Path) -> None:
    assert Policy(broken).template_end_token_id == 1
    template = (broken / "chat_template.jinja").read_text()
    (broken / "chat_template.jinja").write_text(template.replace("{{ eos_token }}", "<|pad|>"))
    assert Policy(broken).template_end_token_id == 0
    (broken / "chat_template.jinja").write_text(template.replace("{{ eos_token }}", ""))
    assert Policy(broken).template_end_token_id is None
