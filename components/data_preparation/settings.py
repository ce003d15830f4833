"""Settings of data preparation: the recipe's `data` section."""

from typing import Any, Literal

from pydantic import Field, field_validator

from components.shared.settings import Settings

# The usual spellings, in order of preference; lower and upper case alike. Several columns are joined.
PROMPT_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("body", "question"),
    ("problem",),
    ("question",),
    ("prompt",),
    ("input",),
    ("query",),
    ("instruction",),
)
ANSWER_COLUMNS: tuple[str, ...] = (
    "answer",
    "final_answer",
    "target",
    "gold",
    "ground_truth",
    "expected_answer",
    "reward_model.ground_truth",
    "label",
    "output",
    "solution",
)
# Of these, the ones that hold a worked solution; its answer is in the last box or behind `####`.
WORKED_ANSWER_COLUMNS = ("output", "solution")


class Source(Settings):
    """Where problems come from, and how they are judged."""

    uri: str = Field(
        description="A path (.jsonl, .json, .parquet), hf://ORG/NAME?config=C&split=S&revision=R, "
        "reasoning-gym://TASK?size=N&seed=S&KEY=VALUE, or "
        "countdown://SPLIT?numbers=3&low=1&high=9&count=N&seed=S."
    )
    name: str | None = Field(None, description="What reports call it; from the URI if left out.")
    verifier: str | None = Field(
        None, description="What judges a completion: math, countdown, reasoning-gym/TASK. The source's own if left out."
    )
    prompt_columns: list[str] = Field(
        [], description="Columns that hold the problem, joined by a space; the usual spellings are tried if empty."
    )
    answer_column: str | None = Field(
        None, description="Column that holds the answer, a.b for a nested one; the usual spellings are tried if empty."
    )
    limit: int | None = Field(None, ge=1, description="Take this many rows at most, the first ones.")


class DataSettings(Settings):
    """Training problems, benchmarks, and how they are cleaned."""

    train: list[Source] = Field(min_length=1, description="Sources of training problems: URIs, or mappings with a uri.")
    benchmarks: dict[str, Source] = Field(
        min_length=1,
        description="Benchmarks by name, as URIs or mappings with a uri; a list of URIs is named by file.",
    )
    prompt_template: str = Field(
        "{problem}", description="The user's message; {problem} stands for the problem's text. Instructions go here."
    )
    overlap_ngram: int = Field(
        10, ge=1, description="Words in an n-gram when training problems are looked for in benchmarks."
    )
    overlap_share: float = Field(
        0.5, gt=0, le=1, description="Share of the shorter text's n-grams from which two problems count as one."
    )
    on_long_prompt: Literal["drop", "error"] = Field(
        "drop", description="What to do with a prompt that leaves no room in the model's context: drop (and count) it."
    )

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
                    raise ValueError(f"a benchmark is a URI or a mapping with a uri, not {entry!r}")
                source = {"uri": entry} if isinstance(entry, str) else entry
                name = source.get("name") or source_name(str(source.get("uri", "")))
                if name in named:
                    raise ValueError(f"two benchmarks would be called {name!r}; give them as a mapping of names")
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
                raise ValueError(f"benchmark name {name!r} may hold letters, digits, - _ and . alone")
        return value

    @field_validator("prompt_template")
    @classmethod
    def _template_has_problem(cls, value: str) -> str:
        if "{problem}" not in value:
            raise ValueError("must contain {problem}, which stands for the problem's text")
        return value


def source_name(uri: str) -> str:
    """A short name for a source: a file's stem, a data set's or a task's name."""
    path = uri.split("?")[0].rstrip("/")
    name = path.rsplit("/", 1)[-1]
    return name.rsplit(".", 1)[0] if "." in name and "://" not in uri else name
