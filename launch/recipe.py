"""Recipes: one YAML file a scenario, every key checked before anything starts."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from components.data_preparation.settings import DataSettings
from components.evaluation.settings import EvaluationSettings
from components.report.settings import ReportSettings
from components.rft.settings import RFTSettings
from components.rl_exploration.settings import ExplorationSettings
from components.shared.errors import InputError, nearest
from components.shared.grading import GradingSettings
from components.shared.object_store.inputs import is_stored, stored_version
from components.shared.settings import Settings
from components.shared.stage import files_digest
from components.shared.tracking import NO_TRACKERS, TrackingSettings
from components.verification_filtering.settings import FilterSettings
from launch.pools import Pools
from launch.store import StoreSettings


class Recipe(Settings):
    """Everything that a run's result depends on."""

    base_policy: str = Field(
        description="Where RLoop starts: a Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION]."
    )
    iterations: int = Field(2, ge=1, description="Iterations of RLoop; fixed when the pipeline is compiled.")
    vanilla: bool = Field(
        False,
        description="Whether vanilla RL of as many steps runs beside RLoop, to compare; fixed when the pipeline is "
        "compiled, as by --with-vanilla-rl.",
    )
    rft_from: Literal["initial", "explored", "base"] = Field(
        "initial",
        description="What RFT fine-tunes: the iteration's initial policy, as RLoop does; the explored one, to see what "
        "that costs; or the base policy, for experts of all iterations. Fixed when the pipeline is compiled.",
    )
    experts_from: Literal["iteration", "all"] = Field(
        "iteration",
        description="Whose experts RFT learns from: the iteration's, as RLoop does, or those of all iterations so far; "
        "fixed when the pipeline is compiled.",
    )
    seed: int = Field(1, ge=0, description="Of all sampling and shuffling.")
    data: DataSettings = Field(description="Training problems and benchmarks.")
    rl: ExplorationSettings = Field(description="RL exploration.")
    grading: GradingSettings = Field(
        GradingSettings(), description="Limits of a verdict and judgement calls: reward, filter and evaluation alike."
    )
    filter: FilterSettings = Field(FilterSettings.model_construct(), description="Which trajectories become experts.")
    rft: RFTSettings = Field(RFTSettings.model_construct(), description="Fine-tuning on the experts.")
    eval: EvaluationSettings = Field(EvaluationSettings.model_construct(), description="Measuring the policies.")
    report: ReportSettings = Field(ReportSettings.model_construct(), description="Choosing the run's policy.")

    store: StoreSettings = Field(StoreSettings(), description="Progress of long stages, and where products go.")
    tracking: TrackingSettings = Field(NO_TRACKERS, description="Following training, beside TensorBoard.")
    pools: Pools = Field(Pools(), description="Resources of the stages' pods and where they run.")
    caching: bool = Field(True, description="Whether a stage's result may come from an earlier run of the same.")

    @field_validator(
        "data", "rl", "grading", "filter", "rft", "eval", "report", "store", "tracking", "pools", mode="before"
    )
    @classmethod
    def _empty_section(cls, value: Any) -> Any:
        return {} if value is None else value  # a section whose keys are all commented out

    @model_validator(mode="after")
    def _names_are_benchmarks(self) -> Self:
        chosen = self.report.validation
        if chosen is not None and chosen not in self.data.benchmarks:
            raise ValueError(f"report.validation {chosen!r} is no benchmark.{nearest(chosen, self.data.benchmarks)}")
        for key, names in (("benchmarks", self.eval.benchmarks), ("curve_benchmarks", self.eval.curve_benchmarks)):
            for name in names:
                if name not in self.data.benchmarks:
                    raise ValueError(f"eval.{key}: {name!r} is no benchmark.{nearest(name, self.data.benchmarks)}")
        return self

    @model_validator(mode="after")
    def _pods_have_enough_gpus(self) -> Self:
        for key, wanted, pool in (
            ("rl.parallel.processes", self.rl.parallel.processes, "training"),
            ("rft.parallel.processes", self.rft.parallel.processes, "training"),
            ("eval.tensor_parallel_size", self.eval.tensor_parallel_size or 1, "inference"),
        ):
            there = getattr(self.pools, pool).accelerators
            if there and wanted > there:
                raise ValueError(
                    f"{key} ({wanted}) must be at most pools.{pool}.accelerators ({there}): each takes a GPU of the pod"
                )
        return self

    @property
    def completion_tokens(self) -> int:
        """Tokens that a completion may take, in training or in evaluation."""
        evaluations = [self.eval.of(name).max_completion_tokens for name in self.data.benchmarks]
        return max(self.rl.max_completion_tokens, *evaluations)


def load_recipe(
    path: str | Path, overrides: Iterable[str] = (), iterations: int | None = None, vanilla: bool = False
) -> Recipe:
    """Reads a recipe.

    Args:
        path: of the YAML file.
        overrides: `KEY=VALUE` each, such as `rl.steps=20`; the value is read as YAML.
        iterations: in place of the recipe's own number.
        vanilla: whether vanilla RL is asked for beside RLoop, whatever the recipe says.

    Raises:
        InputError: the file cannot be read, or a key or value is wrong.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"the recipe {path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"the recipe {path} must be a mapping of keys; see recipes/laptop.yaml")
    for override in overrides:
        set_key(values, override)
    if iterations is not None:
        values["iterations"] = iterations
    if vanilla:
        values["vanilla"] = True
    return Recipe.check(values, "")


def set_key(values: dict[str, Any], override: str) -> None:
    """Sets `a.b.c=value` in nested mappings; a number counts into a list."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise InputError(f"--set takes KEY=VALUE, such as rl.steps=20; got {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {key}: {text!r} is not YAML: {error}") from None
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
        raise InputError(f"--set {key}: {part!r} is none of the list's positions 0 to {len(items) - 1}")
    return int(part)


def data_version(recipe: Recipe) -> str:
    """A digest of the files that a recipe names, here and in object stores: when one changes, preflight looks again."""
    digest = hashlib.sha256()
    sources = [*recipe.data.train, *recipe.data.benchmarks.values()]
    for uri in [recipe.base_policy, *(source.uri for source in sources)]:
        if is_stored(uri):
            digest.update(f"{uri}\0{stored_version(uri)}\0".encode())
            continue
        path = Path(uri)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.is_file() else []
        digest.update(f"{uri}\0{files_digest(files)}\0".encode())
    return digest.hexdigest()[:16]
