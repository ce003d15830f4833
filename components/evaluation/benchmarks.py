"""The benchmarks that a policy is measured on, each with the settings that apply to it."""

from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from components.evaluation.settings import EvaluationSettings
from components.shared.data.schema import BENCHMARK_ORDER, read_rows
from components.shared.errors import InputError, nearest
from components.shared.policy import Policy
from components.shared.stage import read_json

_COLUMNS = ["problem_id", "prompt", "answer", "verifier"]


class Benchmark(NamedTuple):
    """A benchmark, or the first problems of one."""

    name: str
    problems: list[dict[str, Any]]  # rows of the Problems table
    settings: EvaluationSettings  # that apply to it

    @property
    def samples(self) -> int:
        """Number of samples to take."""
        return len(self.problems) * self.settings.samples


def load_benchmarks(folder: str | Path, settings: EvaluationSettings) -> list[Benchmark]:
    """Loads all benchmarks in the recipe's order.

    Args:
        folder: Folder with one Parquet file per benchmark.
        settings: The recipe's `eval` section.
    """
    names = read_json(Path(folder) / BENCHMARK_ORDER)
    return [
        Benchmark(name, list(read_rows(Path(folder) / f"{name}.parquet", _COLUMNS)), settings.of(name))
        for name in names
    ]


def load_curve_benchmarks(folder: str | Path, settings: EvaluationSettings) -> list[Benchmark]:
    """Loads the first problems of the benchmarks on which intermediate checkpoints are measured.

    Args:
        folder: Folder with one Parquet file per benchmark.
        settings: The recipe's `eval` section.

    Raises:
        InputError: eval.curve_benchmarks names an unknown benchmark.
    """
    known = read_json(Path(folder) / BENCHMARK_ORDER)
    benchmarks = []
    for name in settings.curve_benchmarks or known[:1]:
        if name not in known:
            raise InputError(f"eval.curve_benchmarks: {name!r} is not a benchmark.{nearest(name, known)}")
        rows = read_rows(Path(folder) / f"{name}.parquet", _COLUMNS)
        benchmarks.append(Benchmark(name, list(islice(rows, settings.curve_problems)), settings.of_curve(name)))
    return benchmarks


def check_prompts(policy: Policy, benchmarks: list[Benchmark]) -> int:
    """Checks that every prompt of every benchmark leaves room for a completion.

    Returns:
        The maximum number of tokens of a prompt and its completion together.

    Raises:
        InputError: A prompt is too long.
    """
    longest = 0
    for limit in {benchmark.settings.max_completion_tokens for benchmark in benchmarks}:
        with_limit = [benchmark for benchmark in benchmarks if benchmark.settings.max_completion_tokens == limit]
        prompts = (problem["prompt"] for benchmark in with_limit for problem in benchmark.problems)
        longest = max(longest, policy.check_room(prompts, limit, "eval"))
    return longest
