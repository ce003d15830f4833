"""Sampling policies on benchmarks and grading the samples, batch by batch, so that an interrupted stage can resume."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.evaluation.benchmarks import Benchmark
from components.evaluation.settings import EvaluationSettings
from components.shared.data.schema import SAMPLES, count_rows, read_rows, write_table
from components.shared.grading import Grader, GradingRow
from components.shared.policy import Policy
from components.shared.progress.checkpoints import Checkpoints
from components.shared.sampling.base import Completion, Sampler
from components.shared.sampling.engines import Engine, open_sampler
from components.shared.stage import Progress, note


def sampler_of(policy: Policy, engine: Engine, settings: EvaluationSettings, length: int) -> Sampler:
    """Makes a policy ready to sample from, as the recipe says.

    Args:
        policy: The policy.
        engine: The sampling engine.
        settings: The recipe's `eval` section.
        length: Maximum tokens of a prompt and its completion together.
    """
    return open_sampler(
        policy,
        engine,
        batch_size=settings.sequences_per_batch,
        length=length,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        tensor_parallel_size=settings.tensor_parallel_size,
    )


class GradedSampling:
    """Samples benchmarks and grades the samples; every batch is kept as a shard of the stage's progress.

    Args:
        grader: Grades the samples.
        checkpoints: The stage's progress; the batches of an earlier attempt are restored from it.
        folder: Existing folder for the batches.
        seed: Seed of the sampling.
        progress: Counts the samples.
    """

    def __init__(self, grader: Grader, checkpoints: Checkpoints, folder: Path, seed: int, progress: Progress) -> None:
        self._grader, self._checkpoints, self._folder = grader, checkpoints, folder
        self._seed, self._progress = seed, progress
        if restored := checkpoints.restore_shards(folder):
            note(f"resuming with {len(restored)} batches of an earlier attempt")

    def samples(self, sampler: Sampler, benchmark: Benchmark, prefix: str) -> Iterator[dict[str, Any]]:
        """Yields a benchmark's graded samples as rows of the Samples table, beginning with an earlier attempt's.

        Args:
            sampler: Of the policy.
            benchmark: The benchmark.
            prefix: What the names of the batches' files start with; different for each policy and benchmark.
        """
        number = 0
        while (shard := self._shard(prefix, number)).exists():
            self._progress.advance(count_rows(shard))
            yield from read_rows(shard)
            number += 1
        settings = benchmark.settings
        for batch in sampler.sample(
            [problem["prompt"] for problem in benchmark.problems],
            settings.samples,
            self._seed,
            max_tokens=settings.max_completion_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            progress=self._progress,
            skip=number,
        ):
            shard = self._shard(prefix, number)
            write_table(shard, SAMPLES, self._graded(batch, benchmark))
            self._checkpoints.add(shard)
            yield from read_rows(shard)
            number += 1

    def _shard(self, prefix: str, number: int) -> Path:
        return self._folder / f"{prefix}-{number:06d}.parquet"

    def _graded(self, batch: list[Completion], benchmark: Benchmark) -> Iterator[dict[str, Any]]:
        rows = []
        for completion in batch:
            problem = benchmark.problems[completion.prompt_index]
            truncated = completion.finish_reason != "stop"
            rows.append(GradingRow(problem["verifier"], problem["answer"], completion.text, truncated))
        for completion, verdict in zip(batch, self._grader.judge(rows), strict=True):
            yield {
                "benchmark": benchmark.name,
                "problem_id": benchmark.problems[completion.prompt_index]["problem_id"],
                "sample_index": completion.sample_index,
                "completion": completion.text,
                "finish_reason": completion.finish_reason,
                "tokens": len(completion.token_ids),
                "correct": verdict.correct,
                "reason": verdict.reason,
            }
