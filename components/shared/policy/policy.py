"""The Policy contract: a Hugging Face model folder that every stage can load, with its chat template."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.data.batches import batches
from components.shared.data.chat import conversation
from components.shared.errors import InputError
from components.shared.loading import loading
from components.shared.policy.config import named_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Policy:
    """A policy in a folder. Each property is read from the files when it is first used, and then kept.

    Args:
        path: The folder; its files must not change while the object is in use.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Policy({str(self.path)!r})"

    @cached_property
    def id(self) -> str:
        """A short name derived from the weights: the same weights have the same ID."""
        digest = hashlib.sha256()
        for file in sorted(self.path.glob("*.safetensors")):
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        return digest.hexdigest()[:12]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        config: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        return config

    @cached_property
    def context_length(self) -> int:
        """The maximum number of tokens the model takes, prompt and completion together."""
        length = named_config(self.config).get("max_position_embeddings")
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise InputError(f"{self.path}/config.json has no max_position_embeddings, the model's context length")
        return length

    @cached_property
    def vocabulary_size(self) -> int:
        """The number of rows in the model's embeddings."""
        size: int = named_config(self.config)["vocab_size"]
        return size

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer, which pads on the left as sampling requires."""
        with loading():
            from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(self.path), padding_side="left", trust_remote_code=False)
        tokenizer.model_max_length = 1 << 30  # we measure and report long prompts ourselves; no warnings
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def eos_token_ids(self) -> set[int]:
        """The token IDs at which generation stops: the generation config's, or else the model config's."""
        for file in ("generation_config.json", "config.json"):
            config = self.path / file
            ids = json.loads(config.read_text()).get("eos_token_id") if config.is_file() else None
            if ids is not None:
                return set(ids if isinstance(ids, list) else [ids])
        return set()

    @cached_property
    def template_end_token_id(self) -> int | None:
        """The special token with which the chat template ends an assistant's turn, if it does."""
        answered = [*conversation("1 + 1?"), {"role": "assistant", "content": "2"}]
        text = self.tokenizer.apply_chat_template(answered, tokenize=False)
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        ids = self.tokenizer.encode(text[text.rindex("2") + 1 :], add_special_tokens=False)
        return next((token for token in ids if token in special), None)

    def rendered_prompt(self, prompt: str) -> str:
        """Returns a prompt as the policy sees it: rendered by the chat template, up to where the completion begins."""
        text: str = self.tokenizer.apply_chat_template(conversation(prompt), add_generation_prompt=True, tokenize=False)
        return text

    def prompt_token_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Returns the token IDs of prompts, rendered by the chat template up to where the completion begins.

        They are the same IDs that TRL's trainer feeds the policy for `conversation(prompt)`.
        """
        rendered = self.tokenizer.apply_chat_template(
            [conversation(prompt) for prompt in prompts], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        ids: list[list[int]] = rendered["input_ids"]
        return ids

    def check_room(self, prompts: Iterable[str], completion_tokens: int, section: str) -> int:
        """Checks that every prompt leaves room for a completion in the context.

        Args:
            prompts: User messages, before the chat template.
            completion_tokens: Maximum number of tokens of a completion.
            section: Recipe section, for the message.

        Returns:
            The number of tokens of the longest prompt plus a completion.

        Raises:
            InputError: A prompt is too long.
        """
        longest = 0
        for batch in batches(prompts, 1024):
            for text, ids in zip(batch, self.prompt_token_ids(batch), strict=True):
                if len(ids) + completion_tokens > self.context_length:
                    raise InputError(
                        f"the prompt {text[:60]!r}... takes {len(ids)} tokens; with {section}.max_completion_tokens "
                        f"({completion_tokens}) that is more than the model's context of {self.context_length}. Lower "
                        f"it. Data preparation drops prompts that leave no room for the longest completion of rl and "
                        f"eval: has it changed since?"
                    )
                longest = max(longest, len(ids))
        return longest + completion_tokens

    def load_model(self, precision: str = "float32", **options: Any) -> "PreTrainedModel":
        """Loads the model, with a generation config that only says where to stop.

        Args:
            precision: Of the weights: `float32` or `bfloat16`.
            options: Further arguments of `from_pretrained`; without them the model is on the CPU.

        Raises:
            InputError: A tensor is missing, or contains NaN or infinity.
        """
        with loading():
            import torch
            from transformers import AutoModelForCausalLM, GenerationConfig

        model, found = AutoModelForCausalLM.from_pretrained(
            str(self.path),
            dtype=getattr(torch, precision),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
        if missing := sorted(found["missing_keys"]):
            raise InputError(
                f"policy {self.path}: its weights lack {len(missing)} tensors that the model has, such as "
                f"{missing[0]}, and these would be random numbers; save the complete model again with save_pretrained"
            )
        if broken := [key for key, value in model.named_parameters() if not torch.isfinite(value).all()]:
            raise InputError(
                f"policy {self.path}: {len(broken)} of its tensors contain NaN or infinity, such as {broken[0]}"
            )
        # Where to stop is the policy's; how to sample is the recipe's. Otherwise transformers would fill in what a
        # caller leaves out from the checkpoint's file: a repetition penalty in evaluation and none in RL.
        model.generation_config = GenerationConfig(
            eos_token_id=sorted(self.eos_token_ids), pad_token_id=self.tokenizer.pad_token_id
        )
        return model
