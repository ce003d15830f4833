"""The reward function that records: TRL calls it with every completion of every step.

Each batch becomes one Parquet shard, renamed into place as soon as it is scored, before TRL goes on: a
crash loses at most the batch in flight.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.shared.data.schema import ROLLOUTS, write_table
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingRow

CORRECT = "share_correct"  # the name under which TRL logs it
_STATE = ("recorded", "correct", "_all_truncated", "_no_spread")


def shard_name(step: int, rank: int) -> str:
    """The file of one RL step's rollouts of one process."""
    return f"step-{step:06d}-rank-{rank:04d}.parquet"


def overlong_penalty(tokens: int, most: int, window: int) -> float:
    """DAPO's soft overlong punishment (Yu et al. 2025, arXiv 2503.14476, equation 13), 0 to -1.

    Args:
        tokens: of the completion.
        most: tokens that a completion may have.
        window: tokens before that over which the penalty grows; 0 for none at all.
    """
    return -max(0.0, (tokens - (most - window)) / window) if window else 0.0


class RolloutRecorder:
    """Judges completions, records them, and gives TRL their rewards.

    What is recorded as the reward is whether a completion is correct; TRL's has the penalty for long ones too.

    Args:
        folder: where the shards go.
        grader: judges the completions.
        iteration: of RLoop, from 1.
        rank: of this training process.
        policy_id: of the policy the iteration started from.
        eos_ids: token ids that end a completion.
        updates_per_step: optimiser updates on one step's samples.
        max_completion_tokens: of a completion.
        overlong_tokens: before that, over which the penalty on a completion grows; 0 for none.
        patience: steps in a row without anything to learn from after which to stop.
        all_gather: gathers a value from all processes.
    """

    __name__ = "correct"  # what TRL logs the reward as

    def __init__(
        self,
        folder: str | Path,
        grader: Grader,
        *,
        iteration: int,
        rank: int,
        policy_id: str,
        eos_ids: set[int],
        updates_per_step: int,
        max_completion_tokens: int,
        patience: int,
        overlong_tokens: int = 0,
        all_gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        self._folder, self._grader = Path(folder), grader
        self._iteration, self.rank, self._policy_id, self._eos_ids = iteration, rank, policy_id, eos_ids
        self._updates_per_step, self._max_tokens, self._patience = updates_per_step, max_completion_tokens, patience
        self._overlong_tokens = overlong_tokens
        self._all_truncated = self._no_spread = 0
        self._all_gather = all_gather
        self._timed_out_before = self._failed_before = 0
        self._aside: list[tuple[str, str, str, list[int], float | None]] = []
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
        """Rewards of one generation batch: 1 for correct, 0 for wrong or cut, less the penalty; None: not scorable.

        The lists are parallel, a prompt's completions one after the other. `question` is the user's message;
        `known_reward` what `rewards` gave for them, where they have been judged already.

        Raises:
            InputError: for `patience` steps there has been nothing to learn from.
        """
        step = trainer_state.global_step // self._updates_per_step
        texts = [messages[-1]["content"] for messages in completions]
        rewards = (
            self.rewards(
                [{"verifier": v, "answer": a} for v, a in zip(verifier, answer, strict=True)], texts, completion_ids
            )
            if known_reward is None
            else list(known_reward)
        )
        rows = [*zip(problem_id, question, texts, completion_ids, rewards, strict=True), *self._aside]
        self._aside = []
        self._write(step, rows)
        scorable = [reward for *_, reward in rows if reward is not None]
        self.recorded += len(rows)
        self.correct += sum(reward == 1 for reward in scorable)
        log_metric(CORRECT, sum(scorable) / max(1, len(scorable)))
        shaped = [
            None if reward is None else reward + overlong_penalty(len(ids), self._max_tokens, self._overlong_tokens)
            for reward, ids in zip(rewards, completion_ids, strict=True)
        ]
        self._check_signal(problem_id, shaped, [self._finished(ids) for ids in completion_ids], any(scorable))
        return shaped

    def rewards(
        self, problems: Sequence[dict[str, Any]], texts: Sequence[str], completion_ids: Sequence[list[int]]
    ) -> list[float | None]:
        """Judges completions: 1 for correct, 0 for wrong or cut, None where they cannot be judged.

        Args:
            problems: of each completion, with `verifier` and `answer`.
            texts: the completions.
            completion_ids: their tokens.
        """
        rows = [
            GradingRow(problem["verifier"], problem["answer"], text, truncated=not self._finished(ids))
            for problem, text, ids in zip(problems, texts, completion_ids, strict=True)
        ]
        return [None if verdict is None else float(verdict) for verdict in self._grader.grade(rows)]

    def set_aside(self, problem: dict[str, Any], text: str, completion_ids: list[int], reward: float | None) -> None:
        """Takes a rollout that TRL will not ask the reward of; it is recorded with the next batch."""
        self._aside.append((problem["problem_id"], problem["question"], text, completion_ids, reward))

    def _finished(self, completion_ids: list[int]) -> bool:
        return bool(completion_ids) and completion_ids[-1] in self._eos_ids

    def _write(self, step: int, rows: list[tuple[str, str, str, list[int], float | None]]) -> None:
        now = datetime.now(UTC)
        write_table(
            self._folder / shard_name(step, self.rank),
            ROLLOUTS,
            (
                {
                    "problem_id": problem_id,
                    "iteration": self._iteration,
                    "step": step,
                    "rank": self.rank,
                    "group_id": f"{self._iteration}-{step}-{problem_id}",
                    "sample_index": i,
                    "prompt": question,
                    "completion": text,
                    "completion_ids": ids,
                    "finish_reason": "stop" if self._finished(ids) else "length",
                    "reward": reward,
                    "policy_id": self._policy_id,
                    "sampled_at": now,
                }
                for i, (problem_id, question, text, ids, reward) in enumerate(rows)
            ),
        )

    def state(self) -> dict[str, int]:
        """What a checkpoint has to keep of the recorder."""
        return {**{name: getattr(self, name) for name in _STATE}, "timed_out": self.timed_out, "failed": self.failed}

    def resume(self, state: dict[str, int]) -> None:
        """Goes on from the state of a checkpoint."""
        for name in _STATE:
            setattr(self, name, state[name])
        self._timed_out_before, self._failed_before = state["timed_out"], state.get("failed", 0)

    @property
    def timed_out(self) -> int:
        """Answers that took too long or too much memory to judge, earlier attempts included."""
        return self._timed_out_before + self._grader.timed_out

    @property
    def failed(self) -> int:
        """Completions on which a user's verifier failed, earlier attempts included."""
        return self._failed_before + self._grader.failed

    def _check_signal(
        self, problem_ids: Sequence[str], rewards: list[float | None], finished: list[bool], solved: bool
    ) -> None:
        spread: dict[str, set[float]] = {}
        for identity, reward in zip(problem_ids, rewards, strict=True):
            if reward is not None:
                spread.setdefault(identity, set()).add(reward)
        signs = (any(finished), any(len(values) > 1 for values in spread.values()), solved)
        # What this process has is no more than a part of the step.
        any_finished, any_spread, any_solved = map(any, zip(*self._all_gather(signs), strict=True))
        self._all_truncated = 0 if any_finished else self._all_truncated + 1
        self._no_spread = 0 if any_spread else self._no_spread + 1
        if self._all_truncated >= self._patience:
            raise InputError(
                f"nothing to learn from: in the last {self._patience} steps every completion was cut at "
                f"{self._max_tokens} tokens, so none had an answer. Raise rl.max_completion_tokens, or check that "
                f"the base policy ends its answers with an EOS token (its template and generation config)"
            )
        if self._no_spread >= self._patience:
            always = "right" if any_solved else "wrong"
            remedy = (
                "choose easier problems or a stronger base policy, raise rl.group_size, or check that the verifier "
                "understands the policy's answers"
                if always == "wrong"
                else "choose harder problems"
            )
            raise InputError(
                f"nothing to learn from: in the last {self._patience} steps all completions of each prompt had the "
                f"same reward (in the last one, all {always}), so every advantage was 0; {remedy}"
            )
