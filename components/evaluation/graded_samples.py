"""Sampling policies on benchmarks and grading the samples, batch by batch, so that an interrupted stage can resume."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from components.evaluation.benchmarks import Benchmark
from components.evaluation.settings import EvaluationSettings
from components.shared.data.schema import SAMPLES, count_rows, read_rows, write_table
from components.shared.grading import Grader, GradingRow
from components.shared.policy import Policy
from components.shared.progress.checkpoints import Checkpoints
from components.shared.sampling.base import Batch, Completion, Decoding, batches_of
from components.shared.sampling.engines import Engine, SamplerSettings
from components.shared.sampling.placement import place
from components.shared.sampling.replicas import Replicas
from components.shared.stage import Progress, note


class Measured(NamedTuple):
    """A policy, and the benchmarks to sample it on."""

    policy: Policy
    benchmarks: list[Benchmark]
    prefix: str = ""  # what the names of its batches start with; different for each policy of a stage

    def batches_on(self, benchmark: Benchmark, seed: int) -> list[Batch]:
        """Returns the batches of one of its benchmarks; each becomes a shard of the stage's progress."""
        settings = benchmark.settings
        return batches_of(
            self.policy,
            [problem["prompt"] for problem in benchmark.problems],
            settings.samples,
            settings.sequences_per_batch,
            Decoding(seed, settings.max_completion_tokens, settings.temperature, settings.top_p),
            prefix=f"{self.prefix}{benchmark.name}-",
        )


def result_settings(settings: EvaluationSettings) -> dict[str, Any]:
    """Returns the settings that the result depends on: an attempt may resume with another number of replicas."""
    return settings.model_dump(exclude={"parallel"})


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
        self._shards: dict[tuple[str, str], list[Path]] = {}  # by a policy's prefix and a benchmark's name
        if restored := checkpoints.restore_shards(folder):
            note(f"resuming with {len(restored)} batches of an earlier attempt")

    def complete(
        self,
        replicas: Replicas,
        measured: Sequence[Measured],
        engine: Engine,
        settings: EvaluationSettings,
        length: int,
    ) -> None:
        """Samples and grades every batch that an earlier attempt did not.

        Args:
            replicas: Sample the batches.
            measured: The policies, all of the same size.
            engine: The sampling engine.
            settings: The recipe's `eval` section.
            length: Maximum tokens of a prompt and its completion together.
        """
        work: dict[Policy, list[Batch]] = {}
        benchmarks: dict[str, Benchmark] = {}  # by name of a batch
        for each in measured:
            work[each.policy] = []
            for benchmark in each.benchmarks:
                batches = each.batches_on(benchmark, self._seed)
                self._shards[each.prefix, benchmark.name] = [self._shard(batch.name) for batch in batches]
                for batch in batches:
                    if (shard := self._shard(batch.name)).exists():
                        self._progress.advance(count_rows(shard))
                    else:
                        work[each.policy].append(batch)
                        benchmarks[batch.name] = benchmark
        if not benchmarks:
            return
        placement = place(
            measured[0].policy,
            engine,
            sequences=settings.sequences_per_batch,
            tokens=length,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            parallel=settings.parallel,
        )
        samplers = {
            SamplerSettings(
                policy.path,
                engine,
                batch_size=settings.sequences_per_batch,
                length=length,
                gpu_memory_utilization=settings.gpu_memory_utilization,
                tensor_parallel_size=placement.tensor_parallel_size,
                at_once=placement.at_once if placement.replicas > 1 else None,
            ): batches
            for policy, batches in work.items()
        }
        for batch, completions in replicas.sample(placement, samplers):
            shard = self._shard(batch.name)
            write_table(shard, SAMPLES, self._graded(completions, benchmarks[batch.name]))
            self._checkpoints.add(shard)
            self._progress.advance(len(completions))

    def samples(self, measured: Measured, benchmark: Benchmark) -> Iterator[dict[str, Any]]:
        """Yields the graded samples of a policy on a benchmark as rows of the Samples table, once it is complete."""
        for shard in self._shards[measured.prefix, benchmark.name]:
            yield from read_rows(shard)

    def _shard(self, name: str) -> Path:
        return self._folder / f"{name}.parquet"

    def _graded(self, completions: list[Completion], benchmark: Benchmark) -> Iterator[dict[str, Any]]:
        rows = []
        for completion in completions:
            problem = benchmark.problems[completion.prompt_index]
            truncated = completion.finish_reason != "stop"
            rows.append(GradingRow(problem["verifier"], problem["answer"], completion.text, truncated))
        for completion, verdict in zip(completions, self._grader.judge(rows), strict=True):
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
