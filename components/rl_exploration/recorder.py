"""The reward function that records: TRL calls it with every completion of every step.

Each batch becomes one Parquet shard, renamed into place as soon as it is graded, before TRL continues: a crash loses at
most the batch in flight.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from components.rl_exploration.settings import ExplorationSettings
from components.shared.data.schema import ROLLOUTS, write_table
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingRow
from components.shared.policy import Policy

CORRECT = "share_correct"  # TRL's metric of it
_STATE = ("recorded", "correct", "_all_truncated", "_no_spread")


def shard_name(step: int, rank: int) -> str:
    """Returns the name of the file with one process's rollouts of one RL step."""
    return f"step-{step:06d}-rank-{rank:04d}.parquet"


def overlong_penalty(tokens: int, max_tokens: int, window: int) -> float:
    """DAPO's soft overlong punishment (Yu et al. 2025, arXiv 2503.14476, equation 13), 0 to -1.

    Args:
        tokens: Length of the completion.
        max_tokens: Maximum length of a completion.
        window: Number of tokens before the maximum over which the penalty grows; 0 for no penalty.
    """
    return -max(0.0, (tokens - (max_tokens - window)) / window) if window else 0.0


class Recorded(NamedTuple):
    """A completion as it is recorded."""

    problem_id: str
    question: str  # the user message
    text: str
    completion_ids: list[int]
    reward: float | None  # 1 for correct, 0 for wrong or truncated, None if it cannot be graded


class RolloutCounts(NamedTuple):
    """Counts over all rollouts of a run, those of earlier attempts included."""

    recorded: int
    correct: int
    timed_out: int  # took too much time or memory to grade
    failed: int  # a user's verifier failed on them

    @property
    def failed_share(self) -> float:
        """Share of the rollouts on which a user's verifier failed."""
        return self.failed / max(1, self.recorded)


class RolloutRecorder:
    """Grades completions, records them, and gives TRL their rewards.

    The recorded reward is whether a completion is correct; TRL's also has the penalty for long completions.

    Args:
        folder: Where the shards go.
        grader: Grades the completions.
        policy: The policy that the iteration started from.
        settings: The recipe's `rl` section.
        iteration: Iteration of RLoop, from 1.
        rank: Rank of this process.
        all_gather: Gathers a value from all processes.
    """

    __name__ = "correct"  # the name of the reward in TRL's logs

    def __init__(
        self,
        folder: str | Path,
        grader: Grader,
        policy: Policy,
        settings: ExplorationSettings,
        *,
        iteration: int,
        rank: int,
        all_gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        self._folder, self._grader, self._policy, self._settings = Path(folder), grader, policy, settings
        self._iteration, self._rank, self._all_gather = iteration, rank, all_gather
        # A run shorter than the patience must not pass for one that learnt.
        self._patience = min(settings.patience, settings.steps)
        self._all_truncated = self._no_spread = 0  # steps in a row
        self._timed_out_before = self._failed_before = 0
        self._aside: list[Recorded] = []
        self.recorded = 0
        self.correct = 0

    def __call__(
        self,
        *,
        completions: Sequence[list[dict[str, str]]],
        completion_ids: Sequence[list[int]],
        problem_id: Sequence[str],
        question: Sequence[str],
        answer: Sequence[str],
        verifier: Sequence[str],
        trainer_state: Any,
        log_metric: Callable[[str, float], None],
        known_reward: Sequence[float | None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """Records one generation batch and returns its rewards: correctness less the overlong penalty, or None.

        The lists are parallel, and a prompt's completions consecutive.

        Args:
            completions: Each completion as a list of messages.
            completion_ids: Their token IDs.
            problem_id: Column of the training data.
            question: Column of the training data: the user message.
            answer: Column of the training data.
            verifier: Column of the training data.
            trainer_state: The trainer's state.
            log_metric: Logs a metric of the step.
            known_reward: What `rewards` returned for the completions, if they have been graded before.

        Raises:
            InputError: For `rl.patience` steps there was nothing to learn from.
        """
        step = trainer_state.global_step // self._settings.updates_per_step
        texts = [messages[-1]["content"] for messages in completions]
        if known_reward is None:
            problems = [{"verifier": v, "answer": a} for v, a in zip(verifier, answer, strict=True)]
            rewards = self.rewards(problems, texts, completion_ids)
        else:
            rewards = list(known_reward)
        batch = zip(problem_id, question, texts, completion_ids, rewards, strict=True)
        rows = [*(Recorded(*row) for row in batch), *self._aside]
        self._aside = []
        self._write(step, rows)
        graded = [row.reward for row in rows if row.reward is not None]
        self.recorded += len(rows)
        self.correct += sum(reward == 1 for reward in graded)
        log_metric(CORRECT, sum(graded) / max(1, len(graded)))
        shaped = [
            None if reward is None else reward + self._penalty(ids)
            for reward, ids in zip(rewards, completion_ids, strict=True)
        ]
        self._check_signal(problem_id, shaped, [self._finished(ids) for ids in completion_ids], any(graded))
        return shaped

    def rewards(
        self, problems: Sequence[dict[str, Any]], texts: Sequence[str], completion_ids: Sequence[list[int]]
    ) -> list[float | None]:
        """Grades completions: 1 for correct, 0 for wrong or truncated, None if they cannot be graded.

        Args:
            problems: The problem of each completion, with `verifier` and `answer`.
            texts: The completions.
            completion_ids: Their token IDs.
        """
        rows = [
            GradingRow(problem["verifier"], problem["answer"], text, truncated=not self._finished(ids))
            for problem, text, ids in zip(problems, texts, completion_ids, strict=True)
        ]
        return [None if verdict is None else float(verdict) for verdict in self._grader.grade(rows)]

    def set_aside(self, problem: dict[str, Any], text: str, completion_ids: list[int], reward: float | None) -> None:
        """Takes a rollout whose reward TRL will not request; it is recorded with the next batch."""
        self._aside.append(Recorded(problem["problem_id"], problem["question"], text, completion_ids, reward))

    def _finished(self, completion_ids: list[int]) -> bool:
        return bool(completion_ids) and completion_ids[-1] in self._policy.eos_token_ids

    def _penalty(self, completion_ids: list[int]) -> float:
        return overlong_penalty(
            len(completion_ids), self._settings.max_completion_tokens, self._settings.overlong_tokens
        )

    def _write(self, step: int, rows: list[Recorded]) -> None:
        now = datetime.now(UTC)
        write_table(
            self._folder / shard_name(step, self._rank),
            ROLLOUTS,
            (
                {
                    "problem_id": row.problem_id,
                    "iteration": self._iteration,
                    "step": step,
                    "rank": self._rank,
                    "group_id": f"{self._iteration}-{step}-{row.problem_id}",
                    "sample_index": i,
                    "prompt": row.question,
                    "completion": row.text,
                    "completion_ids": row.completion_ids,
                    "finish_reason": "stop" if self._finished(row.completion_ids) else "length",
                    "reward": row.reward,
                    "policy_id": self._policy.id,
                    "sampled_at": now,
                }
                for i, row in enumerate(rows)
            ),
        )

    def state(self) -> dict[str, int]:
        """Returns the part of the recorder's state that a checkpoint has to keep."""
        counts = {"timed_out": self.counts.timed_out, "failed": self.counts.failed}
        return {**{name: getattr(self, name) for name in _STATE}, **counts}

    def resume(self, state: dict[str, int]) -> None:
        """Restores the state of a checkpoint."""
        for name in _STATE:
            setattr(self, name, state[name])
        self._timed_out_before, self._failed_before = state["timed_out"], state.get("failed", 0)

    @property
    def counts(self) -> RolloutCounts:
        """Counts over this process's rollouts."""
        return RolloutCounts(
            self.recorded,
            self.correct,
            self._timed_out_before + self._grader.timed_out,
            self._failed_before + self._grader.failed,
        )

    def _check_signal(
        self, problem_ids: Sequence[str], rewards: list[float | None], finished: list[bool], solved: bool
    ) -> None:
        spread: dict[str, set[float]] = {}
        for problem_id, reward in zip(problem_ids, rewards, strict=True):
            if reward is not None:
                spread.setdefault(problem_id, set()).add(reward)
        signals = (any(finished), any(len(values) > 1 for values in spread.values()), solved)
        # This process has only a part of the step.
        any_finished, any_spread, any_solved = map(any, zip(*self._all_gather(signals), strict=True))
        self._all_truncated = 0 if any_finished else self._all_truncated + 1
        self._no_spread = 0 if any_spread else self._no_spread + 1
        if self._all_truncated >= self._patience:
            raise InputError(
                f"nothing to learn from: in the last {self._patience} steps every completion was truncated "
                f"at {self._settings.max_completion_tokens} tokens, so none had an answer. Raise "
                f"rl.max_completion_tokens, or check that the base policy ends its answers with an EOS token (its "
                f"template and generation config)"
            )
        if self._no_spread >= self._patience:
            always = "right" if any_solved else "wrong"
            remedy = (
                "choose easier problems or a stronger base policy, raise rl.group_size, or check that the verifier "
                "can parse the policy's answers"
                if always == "wrong"
                else "choose harder problems"
            )
            raise InputError(
                f"nothing to learn from: in the last {self._patience} steps all completions of each prompt had the "
                f"same reward (in the last one, all {always}), so every advantage was 0; {remedy}"
            )
