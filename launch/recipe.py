"""Recipes: one YAML file per scenario, with every key checked before anything starts."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from components.data_preparation.settings import DataSettings
from components.evaluation.settings import EvaluationSettings
from components.report.settings import ReportSettings
from components.rft.settings import RFTSettings
from components.rl_exploration.settings import ExplorationSettings
from components.shared.data.sources import is_file_source, stored_files
from components.shared.data.table_files import local_files, local_path
from components.shared.errors import InputError, nearest
from components.shared.grading import GradingSettings
from components.shared.object_store.inputs import is_stored, stored_version
from components.shared.settings import Settings
from components.shared.stage import files_digest
from components.shared.training.tracking import NO_TRACKERS, TrackingSettings
from components.verification_filtering.settings import FilterSettings
from launch.pools import Pools
from launch.store import StoreSettings


class Recipe(Settings):
    """Everything that a run's result depends on."""

    base_policy: str = Field(
        description="Policy to start from: a Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION]."
    )
    iterations: int = Field(2, ge=1, description="Number of RLoop iterations; fixed when the pipeline is compiled.")
    vanilla: bool = Field(
        False,
        description="Also run vanilla RL with the same number of steps, for comparison, as --with-vanilla-rl does. "
        "Fixed when the pipeline is compiled.",
    )
    rft_from: Literal["initial", "explored", "base"] = Field(
        "initial",
        description="Policy that RFT fine-tunes: the iteration's initial policy, as RLoop does; the explored policy, "
        "to see what that costs; or the base policy, for experts of all iterations. Fixed when the pipeline is "
        "compiled.",
    )
    experts_from: Literal["iteration", "all"] = Field(
        "iteration",
        description="Experts that RFT learns from: the iteration's own, as RLoop does, or those of all iterations so "
        "far. Fixed when the pipeline is compiled.",
    )
    seed: int = Field(1, ge=0, description="Seed of all sampling and shuffling.")
    data: DataSettings = Field(description="Training problems and benchmarks.")
    rl: ExplorationSettings = Field(description="RL exploration.")
    grading: GradingSettings = Field(
        GradingSettings(), description="Limits and judgement calls of grading, shared by reward, filter and evaluation."
    )
    filter: FilterSettings = Field(FilterSettings.model_construct(), description="Which trajectories become experts.")
    rft: RFTSettings = Field(RFTSettings.model_construct(), description="Fine-tuning on the experts.")
    eval: EvaluationSettings = Field(EvaluationSettings.model_construct(), description="Evaluation of the policies.")
    report: ReportSettings = Field(ReportSettings.model_construct(), description="Choice of the run's best policy.")

    store: StoreSettings = Field(StoreSettings(), description="Where progress is saved and results are published.")
    tracking: TrackingSettings = Field(NO_TRACKERS, description="Experiment trackers, in addition to TensorBoard.")
    pools: Pools = Field(Pools(), description="Resources and nodes of the stages' pods.")
    caching: bool = Field(
        True, description="Whether a stage may reuse the result of an earlier run with the same inputs."
    )

    @field_validator("base_policy")
    @classmethod
    def _path_of_policy(cls, value: str) -> str:
        return str(local_path(value)) if value.startswith("~") or value.lower().startswith("file://") else value

    @field_validator(
        "data", "rl", "grading", "filter", "rft", "eval", "report", "store", "tracking", "pools", mode="before"
    )
    @classmethod
    def _empty_section(cls, value: Any) -> Any:
        return {} if value is None else value  # a section whose keys are all commented out

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if faults := [*self._unknown_benchmarks(), *self._pods_without_enough_gpus()]:
            raise ValueError("\n".join(faults))
        return self

    def _unknown_benchmarks(self) -> Iterator[str]:
        chosen = self.report.validation
        if chosen is not None and chosen not in self.data.benchmarks:
            yield f"report.validation {chosen!r} is not a benchmark.{nearest(chosen, self.data.benchmarks)}"
        for key, names in (("benchmarks", self.eval.benchmarks), ("curve_benchmarks", self.eval.curve_benchmarks)):
            for name in names:
                if name not in self.data.benchmarks:
                    yield f"eval.{key}: {name!r} is not a benchmark.{nearest(name, self.data.benchmarks)}"

    def _pods_without_enough_gpus(self) -> Iterator[str]:
        sampling = self.eval.parallel
        replicas, size = sampling.replicas or 1, sampling.tensor_parallel_size or 1
        placed = "eval.parallel.replicas x eval.parallel.tensor_parallel_size"
        for key, wanted, pool in (
            ("rl.parallel.processes", self.rl.parallel.processes, "training"),
            ("rft.parallel.processes", self.rft.parallel.processes, "training"),
            (placed if sampling.replicas else "eval.parallel.tensor_parallel_size", replicas * size, "inference"),
        ):
            there = getattr(self.pools, pool).accelerators
            if there and wanted > there:
                yield (
                    f"{key} ({wanted}) must be at most pools.{pool}.accelerators ({there}): each takes one GPU of the "
                    f"pod"
                )

    @property
    def completion_tokens(self) -> int:
        """Length limit of a completion in tokens: the highest of training and evaluation."""
        evaluations = [self.eval.of(name).max_completion_tokens for name in self.data.benchmarks]
        return max(self.rl.max_completion_tokens, *evaluations)


def load_recipe(
    path: str | Path, overrides: Iterable[str] = (), iterations: int | None = None, vanilla: bool = False
) -> Recipe:
    """Reads a recipe.

    Args:
        path: Path of the YAML file.
        overrides: Overrides of the form `KEY=VALUE`, such as `rl.steps=20`; values are parsed as YAML.
        iterations: Number of iterations, if not the recipe's.
        vanilla: Whether to run vanilla RL even if the recipe does not.

    Raises:
        InputError: The file cannot be read, or a key or value is wrong.
    """
    return checked_recipe(recipe_values(path, overrides, iterations, vanilla))


def recipe_values(
    path: str | Path, overrides: Iterable[str] = (), iterations: int | None = None, vanilla: bool = False
) -> dict[str, Any]:
    """Returns a recipe's values, overrides included, not validated yet. Arguments and errors as for `load_recipe`."""
    try:
        values = yaml.load(Path(path).read_text(), _Loader)
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"the recipe {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"the recipe {path} must be a mapping of keys; see recipes/laptop.yaml")
    for override in overrides:
        set_key(values, override)
    if iterations is not None:
        values["iterations"] = iterations
    if vanilla:
        values["vanilla"] = True
    return values


def checked_recipe(values: dict[str, Any]) -> Recipe:
    """Validates a recipe's values; raises InputError with every fault found."""
    faults = list(_placeholders(values))
    try:
        recipe = Recipe.check(values, "")
    except InputError as error:
        faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    return recipe


class _Loader(yaml.SafeLoader):
    """Rejects mappings with duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key!r}; remove one of the two", key_node.start_mark
                )
            if isinstance(key, str | int | float):
                seen.add(key)
        return super().construct_mapping(node, deep)


# Text in a parameter that KFP and Argo replace: their placeholders, and those of recurring runs. Locally such text
# becomes null, on a cluster something else.
_PLACEHOLDER = re.compile(
    r"\{\{\s*(?:\$|=|channel:|(?:workflow|inputs|outputs|tasks|steps|pod|item|retries|node)\b)[^}]*(?:\}\})?"
    r"|\[\[(?:ScheduledTime|CurrentTime|Index|RunUUID)[^\]]*\]\]"
)


def _placeholders(value: Any, key: str = "") -> Iterator[str]:
    """Yields a message for each string in a recipe that contains a placeholder of KFP or Argo."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _placeholders(str(name), f"{key}.{name}".lstrip("."))
            yield from _placeholders(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _placeholders(inner, f"{key}.{number}")
    elif isinstance(value, str) and (match := _PLACEHOLDER.search(value)):
        yield (
            f"recipe key {key!r} contains {match[0]!r}, which Kubeflow Pipelines would replace as a placeholder; write "
            f"it differently, for example with a space between the brackets"
        )


def set_key(values: dict[str, Any], override: str) -> None:
    """Applies `a.b.c=value` to nested mappings; in a list, a part of the key is an index."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise InputError(f"--set expects KEY=VALUE, such as rl.steps=20; got {override!r}")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"--set {key}: {text!r} is not valid YAML: {error}") from None
    *parents, last = key.split(".")
    here: Any = values
    for parent in parents:
        if isinstance(here, list):
            here = here[_index(here, parent, key)]
        else:
            if here.get(parent) is None:
                here[parent] = {}
            here = here[parent]
        if not isinstance(here, dict | list):
            raise InputError(f"--set {key}: {parent!r} is a value, not a section")
    if isinstance(here, list):
        here[_index(here, last, key)] = value
    else:
        here[last] = value


def _index(items: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise InputError(f"--set {key}: {part!r} is not an index of the list, expected 0 to {len(items) - 1}")
    return int(part)


def data_version(recipe: Recipe) -> str:
    """Returns a digest of the local and stored files that a recipe names: if it changes, preflight runs again."""
    digest = hashlib.sha256()
    folder = Path(recipe.base_policy)
    if is_stored(recipe.base_policy):
        version = stored_version(recipe.base_policy)
    else:
        version = files_digest(sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else [])
    digest.update(f"{recipe.base_policy}\0{version}\0".encode())
    for source in [*recipe.data.train, *recipe.data.benchmarks.values()]:
        try:
            if is_stored(source.uri):
                version = "\0".join(map(stored_version, stored_files(source.uri, "data")))
            else:
                version = files_digest(local_files(source.uri, "data") if is_file_source(source.uri) else [])
        except InputError as error:  # preflight reports it, with everything else that is wrong
            version = str(error)
        digest.update(f"{source.uri}\0{version}\0".encode())
    return digest.hexdigest()[:16]
