"""The Policy contract: a Hugging Face model directory that every stage can load, with its chat template.

A stage that trains saves new weights beside the *initial* policy's own config, generation config,
tokenizer and template files, byte for byte, so that these never drift between stages.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from components.shared.data.batches import batches
from components.shared.data.chat import conversation
from components.shared.errors import InputError
from components.shared.policy.weights import WeightFiles, check_weights, local_weights, refuse_adapter
from components.shared.stage import whole_file, whole_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")
# Pickled weights run code when they are loaded; other frameworks' files are of no use here.
_NEVER_COPIED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.py")


def check_policy(path: str | Path, name: str, weights: WeightFiles | None = None) -> None:
    """Checks that a folder is a policy: config, weights that fit it, tokenizer, chat template, an EOS that agrees.

    Args:
        path: the folder.
        name: what the user calls it, for the messages.
        weights: the headers of the weights where they lie elsewhere; the folder's own if None.

    Raises:
        InputError: names what is missing and how to supply it.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"base policy {name!r}: no such folder; give a Hugging Face model folder or hf://ORG/NAME")
    refuse_adapter({file.name for file in path.iterdir()}, name)
    if not (path / "config.json").is_file():
        raise InputError(f"base policy {name!r} has no config.json; it is not a Hugging Face model folder")
    if not (any(path.glob("*.safetensors")) if weights is None else weights.headers):
        raise InputError(
            f"base policy {name!r} has no *.safetensors weights; load it in transformers and save it again with "
            f"save_pretrained (pickled *.bin weights are not loaded, since they can run code)"
        )
    if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(
            f"base policy {name!r} has no tokenizer (tokenizer.json, tokenizer.model or vocab.json); "
            f"save one beside the weights with tokenizer.save_pretrained({name!r})"
        )
    config = _check_config(path, name)
    check_weights(config, local_weights(path, name) if weights is None else weights, name)
    try:
        tokenizer = load_tokenizer(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"base policy {name!r}: its tokenizer cannot be loaded: {_first_line(error)}") from None
    if not tokenizer.chat_template:
        raise InputError(
            f"base policy {name!r} has no chat template; add a chat_template.jinja file or set "
            f"tokenizer.chat_template and save the tokenizer beside the weights"
        )
    ids = _template_ids(tokenizer, name)
    if tokenizer.eos_token_id is None:
        raise InputError(f"base policy {name!r}: the tokenizer has no EOS token, so a completion could never end")
    if tokenizer.eos_token_id not in eos_token_ids(path):
        raise InputError(
            f"base policy {name!r}: the tokenizer's EOS {tokenizer.eos_token!r} (id {tokenizer.eos_token_id}) is not "
            f"among the generation config's {sorted(eos_token_ids(path))}; generation would not stop where "
            f"fine-tuning says it ends. Set eos_token_id in generation_config.json to a list with both"
        )
    rows = vocabulary_size(path)
    ids |= {tokenizer.eos_token_id, tokenizer.pad_token_id, *eos_token_ids(path)}
    if beyond := sorted(token for token in ids if token >= rows):
        raise InputError(
            f"base policy {name!r}: token {tokenizer.convert_ids_to_tokens(beyond[0])!r} (id {beyond[0]}) of the "
            f"template, EOS or padding has no row in the model's embeddings, which have {rows}; call "
            f"model.resize_token_embeddings(len(tokenizer)) and save the model again"
        )


def _template_ids(tokenizer: "PreTrainedTokenizerBase", name: str) -> set[int]:
    """The token ids that the chat template makes of a prompt and of an answered one.

    Raises:
        InputError: it fails, drops the problem or the answer, or refuses assistant turns.
    """
    try:
        prompt = tokenizer.apply_chat_template(conversation("1 + 1?"), add_generation_prompt=True, tokenize=False)
        ids = prompt_token_ids(tokenizer, ["1 + 1?"])[0]
    except (TemplateError, ValueError, TypeError) as error:
        raise InputError(f"base policy {name!r}: its chat template fails: {_first_line(error)}") from None
    if "1 + 1?" not in prompt:
        raise InputError(f"base policy {name!r}: its chat template leaves out what the user says: it gives {prompt!r}")
    answered = [*conversation("1 + 1?"), {"role": "assistant", "content": "It is 2."}]
    try:
        text = tokenizer.apply_chat_template(answered, tokenize=False)
    except (TemplateError, ValueError, TypeError) as error:
        raise InputError(
            f"base policy {name!r}: its chat template fails on an assistant's turn, with which answers are trained: "
            f"{_first_line(error)}; allow the role assistant in it"
        ) from None
    if "It is 2." not in text:
        raise InputError(
            f"base policy {name!r}: its chat template leaves out what the assistant says, with which answers are "
            f"trained: it gives {text[-200:]!r}; render messages of the role assistant too"
        )
    return {*ids, *tokenizer.encode(text, add_special_tokens=False)}


def vocabulary_size(path: str | Path) -> int:
    """The rows of the model's embeddings."""
    size: int = named_config(json.loads((Path(path) / "config.json").read_text()))["vocab_size"]
    return size


def named_config(config: dict[str, Any]) -> dict[str, Any]:
    """A model's config under the usual names, whatever its class calls them: GPT-2's n_layer is num_hidden_layers.

    Args:
        config: content of config.json; of a model that sees too, its language model's part is meant.
    """
    inner = config.get("text_config", config)
    names = _attribute_names(inner.get("model_type", config.get("model_type")))
    return {**inner, **{usual: inner[own] for usual, own in names.items() if usual not in inner and own in inner}}


@cache
def _attribute_names(kind: str | None) -> dict[str, str]:
    from transformers import CONFIG_MAPPING

    return dict(CONFIG_MAPPING[kind].attribute_map) if kind in CONFIG_MAPPING else {}


def _check_config(path: Path, name: str) -> dict[str, Any]:
    from transformers import CONFIG_MAPPING

    try:
        config = json.loads((path / "config.json").read_text())
        kind = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise InputError(f"base policy {name!r}: config.json cannot be read: {_first_line(error)}") from None
    if kind not in CONFIG_MAPPING:
        raise InputError(
            f"base policy {name!r}: this version of transformers has no model type {kind!r}; code that comes with a "
            f"model is not run"
        )
    # A kernel's name with a slash would be fetched from the hub and run.
    for key in ("attn_implementation", "_attn_implementation"):
        if "/" in str(config.get(key, "")):
            raise InputError(f"base policy {name!r}: config.json asks for foreign code in {key}; remove it")
    found: dict[str, Any] = config
    return found


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def template_end_token_id(path: str | Path) -> int | None:
    """The special token with which the policy's chat template ends an assistant's answer, if there is one."""
    tokenizer = load_tokenizer(path)
    answered = [*conversation("1 + 1?"), {"role": "assistant", "content": "2"}]
    text = tokenizer.apply_chat_template(answered, tokenize=False)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    ids = tokenizer.encode(text[text.rindex("2") + 1 :], add_special_tokens=False)
    return next((token for token in ids if token in special), None)


def load_tokenizer(path: str | Path) -> "PreTrainedTokenizerBase":
    """The policy's tokenizer, padding on the left as sampling needs it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(path), padding_side="left", trust_remote_code=False)
    tokenizer.model_max_length = 1 << 30  # a long prompt is measured and reported by us, not warned about
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(path: str | Path, precision: str = "float32", **options: Any) -> "PreTrainedModel":
    """The policy's model, with a generation config that says where to stop and nothing else.

    Args:
        path: of the policy.
        precision: of the weights: `float32` or `bfloat16`.
        options: more arguments for `from_pretrained`; without them the model is on the CPU.

    Raises:
        InputError: a tensor is missing, or holds NaN or infinity.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model, found = AutoModelForCausalLM.from_pretrained(
        str(path),
        dtype=getattr(torch, precision),
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"policy {path}: its weights lack {len(missing)} tensors that the model has, such as {missing[0]}, and "
            f"these would be random numbers; save the whole model again with save_pretrained"
        )
    if broken := [key for key, value in model.named_parameters() if not torch.isfinite(value).all()]:
        raise InputError(f"policy {path}: {len(broken)} of its tensors hold NaN or infinity, such as {broken[0]}")
    # Where it ends is the policy's; how it is sampled is the recipe's. Without this, transformers fills what
    # a caller leaves open from the checkpoint's file: a repetition penalty here and none in RL.
    model.generation_config = GenerationConfig(
        eos_token_id=sorted(eos_token_ids(path)), pad_token_id=load_tokenizer(path).pad_token_id
    )
    return model


def eos_token_ids(path: str | Path) -> set[int]:
    """The ids at which generation stops: the generation config's, else the model config's."""
    for file in ("generation_config.json", "config.json"):
        config = Path(path) / file
        ids = json.loads(config.read_text()).get("eos_token_id") if config.is_file() else None
        if ids is not None:
            return set(ids if isinstance(ids, list) else [ids])
    return set()


def context_length(path: str | Path) -> int:
    """The most tokens the model takes, prompt and completion together."""
    length = named_config(json.loads((Path(path) / "config.json").read_text())).get("max_position_embeddings")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise InputError(f"{path}/config.json does not say max_position_embeddings, the model's context length")
    return length


def rendered_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> str:
    """What the policy is sent of a prompt, as text: rendered by the chat template up to where the completion begins."""
    text: str = tokenizer.apply_chat_template(conversation(prompt), add_generation_prompt=True, tokenize=False)
    return text


def prompt_token_ids(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str]) -> list[list[int]]:
    """The token ids of prompts, rendered by the chat template up to where the completion begins.

    The same ids that TRL's trainer feeds the policy for `conversation(prompt)`.
    """
    rendered = tokenizer.apply_chat_template(
        [conversation(prompt) for prompt in prompts], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    ids: list[list[int]] = rendered["input_ids"]
    return ids


def check_room(policy: str | Path, prompts: Iterable[str], completion_tokens: int, section: str) -> int:
    """Checks that every prompt leaves room for a completion in the policy's context.

    Args:
        policy: its folder.
        prompts: users' messages, before the chat template.
        completion_tokens: tokens that a completion may take.
        section: of the recipe, for the message.

    Returns:
        The tokens that the longest prompt and a completion take together.

    Raises:
        InputError: a prompt is too long.
    """
    tokenizer, context = load_tokenizer(policy), context_length(policy)
    longest = 0
    for batch in batches(prompts, 1024):
        for text, ids in zip(batch, prompt_token_ids(tokenizer, batch), strict=True):
            if len(ids) + completion_tokens > context:
                raise InputError(
                    f"the prompt {text[:60]!r}... takes {len(ids)} tokens; with {section}.max_completion_tokens "
                    f"({completion_tokens}) that is more than the model's context of {context}. Lower it. Data "
                    f"preparation drops prompts that leave no room for the longest completion of rl and eval: has it "
                    f"changed since?"
                )
            longest = max(longest, len(ids))
    return longest + completion_tokens


def copy_policy(source: str | Path, destination: str | Path, without_weights: bool = False) -> None:
    """Copies a policy's files, whole, without pickled weights and without code."""
    weights = _WEIGHT_PATTERNS if without_weights else ()
    ignored = shutil.ignore_patterns(*weights, *_NEVER_COPIED, ".git", ".cache")
    with whole_folder(destination) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=ignored)


def save_policy(model: "PreTrainedModel", initial: str | Path, destination: str | Path) -> None:
    """Saves a trained model as a policy: its weights, and every other file as the initial policy has it.

    Args:
        model: whose weights to save.
        initial: the policy that training started from.
        destination: folder to make.
    """
    with whole_folder(destination) as folder:
        shutil.copytree(
            initial,
            folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns(*_WEIGHT_PATTERNS, *_NEVER_COPIED, ".git", ".cache"),
        )
        weights = folder / ".weights"
        model.save_pretrained(weights)
        for pattern in _WEIGHT_PATTERNS:
            for file in weights.glob(pattern):
                file.chmod(0o644)  # written as private; another user's pod has to read it
                file.rename(folder / file.name)
        shutil.rmtree(weights)


_SNAPSHOT = re.compile(r"step-(\d+)\.safetensors")


def snapshot_name(step: int) -> str:
    """The file of the weights after so many RL steps."""
    return f"step-{step:06d}.safetensors"


def snapshot_files(folder: str | Path) -> dict[int, Path]:
    """The weights that exploration kept on the way: RL steps done, in order, to file."""
    found = {int(match[1]): file for file in Path(folder).iterdir() if (match := _SNAPSHOT.fullmatch(file.name))}
    return dict(sorted(found.items()))


def save_weights(model: "PreTrainedModel", path: str | Path) -> None:
    """Saves a model's weights alone, as one safetensors file, whole."""
    with whole_file(path) as temporary:
        folder = temporary.with_suffix(".folder")
        model.save_pretrained(folder, max_shard_size="100TB")
        (folder / "model.safetensors").chmod(0o644)  # written as private; another user's pod has to read it
        (folder / "model.safetensors").rename(temporary)
        shutil.rmtree(folder)


def with_weights(policy: str | Path, weights: str | Path, destination: str | Path) -> Path:
    """A policy with the weights of a file and everything else of another policy; the weights are linked, not copied."""
    copy_policy(policy, destination, without_weights=True)
    (Path(destination) / "model.safetensors").symlink_to(Path(weights).resolve())
    return Path(destination)


@cache
def policy_id(path: str | Path) -> str:
    """A short name for a policy that follows from its weights: the same weights, the same id."""
    digest = hashlib.sha256()
    for file in sorted(Path(path).glob("*.safetensors")):
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:12]


def accelerator() -> str:
    """Where models run: `cuda` where there is a GPU, else `cpu`.

    Raises:
        InputError: the pod was given a GPU that torch cannot use; on the CPU, hours would become months.
    """
    import torch

    if torch.cuda.is_available():
        return "cuda"
    given = os.environ.get("NVIDIA_VISIBLE_DEVICES", "")  # Kubernetes' device plugin sets it
    if given not in ("", "void", "none"):
        raise InputError(
            f"this pod was given the GPU {given}, but torch {torch.__version__} cannot use it: its image has the CPU "
            f"variant, or the node's driver is older than its CUDA {torch.version.cuda}"
        )
    return "cpu"


def training_precision(precision: str) -> dict[str, Any]:
    """The arguments of a transformers trainer for a precision.

    Args:
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 on a GPU that has it, float32 elsewhere.

    Returns:
        `bf16` and `use_cpu` for `TrainingArguments`.
    """
    use_cpu = accelerator() == "cpu"
    return {"bf16": precision == "bfloat16" or (precision == "auto" and gpu_has_bfloat16()), "use_cpu": use_cpu}


def gpu_has_bfloat16() -> bool:
    """Whether there is a GPU that computes in bfloat16 itself; emulation is slow."""
    import torch

    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))
