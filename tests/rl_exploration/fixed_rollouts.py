"""Exploration with made-up rollouts, the same for any number of processes: what is left to differ is the training."""

from typing import Any

from components.rl_exploration.explore import explore
from components.rl_exploration.trainer import ExplorationTrainer, Rollout
from components.shared.policy import Policy
from tests.countdown_solver import solve


def explore_fixed(*args: Any, **kwargs: Any) -> dict[str, float]:
    """As `explore` with rl.resample_rounds: of each group the first are right, as many as its problem says."""

    def rollouts(self: ExplorationTrainer, inputs: list[dict[str, Any]]) -> list[Rollout]:
        policy, tokenizer, size = Policy(args[0]), self.processing_class, self.num_generations
        made = []
        for i, row in enumerate(inputs):
            right = i % size <= int(row["problem_id"].removeprefix("p")) % (size - 1)
            text = solve(row["answer"]) if right else "1 + 1" + " + 1" * (i % size)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            (prompt,) = policy.prompt_token_ids([row["question"]])
            made.append(Rollout(row, prompt, ids, [{"role": "assistant", "content": text}], None, float(right)))
        return made

    ExplorationTrainer._groups_with_spread = rollouts
    return explore(*args, **kwargs)
