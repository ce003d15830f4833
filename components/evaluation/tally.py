"""The figures of a policy on a benchmark: avg@n, pass@k and more, from its graded samples."""

from dataclasses import dataclass, field
from typing import Any

from components.evaluation.benchmarks import Benchmark
from components.shared.errors import InputError
from components.shared.reporting.pass_at_k import bootstrap_interval, pass_at_k


@dataclass
class ProblemTally:
    """Counts over one problem's samples."""

    samples: int = 0  # that could be graded
    correct: int = 0
    truncated: int = 0
    tokens: int = 0
    solutions: set[int] = field(default_factory=set)  # hashes of distinct correct completions

    def add(self, sample: dict[str, Any]) -> None:
        """Counts a sample; one that could not be graded does not affect the estimate."""
        self.truncated += sample["finish_reason"] == "length"
        self.tokens += sample["tokens"]
        if sample["correct"] is not None:
            self.samples += 1
            self.correct += sample["correct"]
            if sample["correct"]:
                self.solutions.add(hash("".join(sample["completion"].split())))


def summarise(benchmark: Benchmark, tallies: list[ProblemTally], seed: int) -> dict[str, Any]:
    """Returns the figures of a policy on a benchmark.

    Args:
        benchmark: The benchmark.
        tallies: One per problem, in the benchmark's order.
        seed: Seed of the bootstrap.

    Returns:
        avg@n, pass@k and other figures, and by problem how many samples could be graded and were correct.

    Raises:
        InputError: No problem has enough samples that could be graded.
    """
    settings = benchmark.settings
    most = settings.pass_at[-1]
    # A problem with fewer graded samples than k has no pass@k; its gold answer cannot be parsed.
    scorable = [tally for tally in tallies if tally.samples >= most]
    if not scorable:
        raise InputError(f"benchmark {benchmark.name}: no problem has {most} scorable samples; check its gold answers")
    averages = [tally.correct / tally.samples for tally in scorable]
    passes = {str(k): [pass_at_k(tally.samples, tally.correct, k) for tally in scorable] for k in settings.pass_at}
    drawn = len(tallies) * settings.samples
    return {
        "benchmark": benchmark.name,
        "n": settings.samples,
        "problems": len(scorable),
        "not_scorable": len(tallies) - len(scorable),
        "avg": sum(averages) / len(averages),
        "avg_interval": bootstrap_interval(averages, seed),
        "pass_at_k": {k: sum(values) / len(values) for k, values in passes.items()},
        "pass_at_k_interval": {k: bootstrap_interval(values, seed) for k, values in passes.items()},
        "truncation_rate": sum(tally.truncated for tally in tallies) / drawn,
        "mean_tokens": sum(tally.tokens for tally in tallies) / drawn,
        "distinct_correct": sum(len(tally.solutions) for tally in scorable) / len(scorable),
        "by_problem": {
            "samples": [tally.samples for tally in tallies],
            "correct": [tally.correct for tally in tallies],
        },
    }
