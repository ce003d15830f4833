"""Settings of data preparation: the recipe's `data` section."""

from typing import Any, Literal

from pydantic import Field, field_validator

from components.shared.data.sources import RawProblem, Source, prompt_of, source_name
from components.shared.settings import Settings


class DataSettings(Settings):
    """Training problems and benchmarks, and how they are cleaned."""

    train: list[Source] = Field(
        min_length=1, description="Sources of training problems, as URIs or mappings with a uri."
    )
    benchmarks: dict[str, Source] = Field(
        min_length=1,
        description="Benchmarks by name, as URIs or mappings with a uri, or a list of URIs, each named after its file.",
    )
    prompt_template: str = Field(
        "{problem}",
        description="The user's message, with instructions if needed; {problem} is replaced by the problem's text.",
    )
    overlap_ngram: int = Field(
        10, ge=1, description="Words per n-gram when checking whether training problems are in a benchmark."
    )
    overlap_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the shorter text's n-grams that two problems must have in common to count as the same.",
    )
    on_long_prompt: Literal["drop", "error"] = Field(
        "drop",
        description="What to do if a prompt leaves no room for a completion in the model's context: drop and count the "
        "problem, or fail.",
    )

    def prompt_of(self, problem: RawProblem) -> str:
        """The prompt of a problem: its text in the template, after the earlier messages if it is a conversation."""
        return prompt_of(problem, self.prompt_template)

    @field_validator("train", mode="before")
    @classmethod
    def _train_from_uris(cls, value: Any) -> Any:
        entries = value if isinstance(value, list) else [value]
        return [{"uri": entry} if isinstance(entry, str) else entry for entry in entries]

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _benchmarks_from_uris(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list):
            named: dict[str, Any] = {}
            for entry in value:
                if not isinstance(entry, str | dict):
                    raise ValueError(f"a benchmark must be a URI or a mapping with a uri, not {entry!r}")
                source = {"uri": entry} if isinstance(entry, str) else entry
                name = source.get("name") or source_name(str(source.get("uri", "")))
                if name in named:
                    raise ValueError(
                        f"two benchmarks would be named {name!r}; give them as a mapping with names of your own"
                    )
                named[name] = source
            return named
        if isinstance(value, dict):
            return {k: {"uri": v} if isinstance(v, str) else v for k, v in value.items()}
        return value

    @field_validator("benchmarks")
    @classmethod
    def _plain_names(cls, value: dict[str, Source]) -> dict[str, Source]:
        for name in value:
            if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
                raise ValueError(
                    f"benchmark name {name!r} may only contain letters, digits, - _ and ., and not begin with ."
                )
        return value

    @field_validator("prompt_template")
    @classmethod
    def _template_has_problem(cls, value: str) -> str:
        if "{problem}" not in value:
            raise ValueError("must contain {problem}, which is replaced by the problem's text")
        return value
