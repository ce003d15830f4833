"""TRL's GRPO trainer with dynamic sampling, and with an order of problems that survives resuming."""

import random
from typing import Any, NamedTuple

import torch
from trl import GRPOTrainer

from components.rl_exploration.recorder import RolloutRecorder
from components.shared.training.collectives import all_gather


class Rollout(NamedTuple):
    """One completion of one problem, and its reward."""

    problem: dict[str, Any]  # its row of the training data
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: list[dict[str, str]]  # as messages
    logprobs: list[float] | None  # the sampler's, if it returns them
    reward: float | None  # 1 for correct, 0 for wrong, None if not gradable


class ExplorationTrainer(GRPOTrainer):  # type: ignore[misc]
    """The trainer of RL exploration.

    Dynamic sampling (Yu et al. 2025, DAPO, arXiv 2503.14476, section 3.2): groups whose completions all have the same
    reward have zero advantage and teach nothing. They are replaced by newly sampled groups of other problems until the
    batch consists of groups with different rewards or the rounds are used up. In the latter case, groups with equal
    rewards fill the batch, and the step trains on fewer. Every completion is recorded, including those of groups that
    were replaced.

    Args:
        recorder: The reward function.
        resample_rounds: How many times groups are replaced per step; 0 disables dynamic sampling.
        others: Arguments of GRPOTrainer.
    """

    def __init__(self, *, recorder: RolloutRecorder, resample_rounds: int, **others: Any) -> None:
        super().__init__(reward_funcs=recorder, **others)
        self._recorder, self._resample_rounds = recorder, resample_rounds
        self._sampled: list[Rollout] | None = None

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        # TRL draws each epoch's order from a generator that starts over in a resumed run, which would train on the
        # first epoch's problems again.
        sampler = super()._get_train_sampler(dataset)
        sampler.set_epoch = lambda epoch: sampler.generator.manual_seed(sampler.seed + 1_000_003 * epoch)
        return sampler

    def get_train_dataloader(self) -> Any:
        """Returns the batches; their sampler can be told the epoch even if a resumed run skips some of them."""
        loader = super().get_train_dataloader()
        if self.accelerator.num_processes > 1:
            # Where accelerate looks for the sampler in this case. It has put its own samplers there; otherwise an epoch
            # that is resumed would have the first one's order.
            loader.batch_sampler.sampler = loader.batch_sampler.batch_sampler.sampler
        return loader

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        if self._resample_rounds:
            self._sampled = self._groups_with_spread(inputs)
            inputs = [{**rollout.problem, "known_reward": rollout.reward} for rollout in self._sampled]
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts: list[Any]) -> Any:
        if self._sampled is None:
            return super()._generate(prompts)
        sampled, self._sampled = self._sampled, None
        logprobs = [rollout.logprobs for rollout in sampled]
        return (
            [rollout.prompt_ids for rollout in sampled],
            [rollout.completion_ids for rollout in sampled],
            None,
            [rollout.completion for rollout in sampled],
            None if None in logprobs else logprobs,
            {},
            None,
            [],
        )

    def _groups_with_spread(self, inputs: list[dict[str, Any]]) -> list[Rollout]:
        """Samples a batch with as many groups as `inputs`; groups with equal rewards only fill what is missing."""
        wanted = len(inputs) // self.num_generations
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        # Seeded by the step, so that a resumed run draws the same.
        draw = random.Random(f"{self.args.seed} {self.state.global_step} {process}")
        taken = set().union(*all_gather({problem["problem_id"] for problem in inputs}))
        others = [i for i, identity in enumerate(self.train_dataset["problem_id"]) if identity not in taken]
        others = others[process::processes][: len(others) // processes]  # an equal part for each process
        useful, flat = self._sample(inputs)
        for _ in range(self._resample_rounds):
            missing = torch.tensor([wanted - len(useful)], device=self.accelerator.device)
            # All processes sample the same number of times and groups: generation may be collective.
            count = min(int(self.accelerator.gather(missing).max()), len(others))
            if count <= 0:
                break
            chosen = [others.pop(draw.randrange(len(others))) for _ in range(count)]
            more, more_flat = self._sample([self.train_dataset[i] for i in chosen for _ in range(self.num_generations)])
            useful, flat = useful + more, flat + more_flat
        groups = useful + flat
        for rollout in (rollout for group in groups[wanted:] for rollout in group):
            self._recorder.set_aside(
                rollout.problem, rollout.completion[-1]["content"], rollout.completion_ids, rollout.reward
            )
        self._log_metric("useful_groups", min(len(useful), wanted) / wanted)
        self._log_metric("sampled_groups", len(groups))
        return [rollout for group in groups[:wanted] for rollout in group]

    def _sample(self, inputs: list[dict[str, Any]]) -> tuple[list[list[Rollout]], list[list[Rollout]]]:
        """Samples and grades groups; returns those with different rewards, and those with equal rewards."""
        prompt_ids, completion_ids, _, completions, logprobs, *_ = super()._generate([row["prompt"] for row in inputs])
        rewards = self._recorder.rewards(inputs, [messages[-1]["content"] for messages in completions], completion_ids)
        rollouts = [
            Rollout(*row)
            for row in zip(
                inputs, prompt_ids, completion_ids, completions, logprobs or [None] * len(inputs), rewards, strict=True
            )
        ]
        size = self.num_generations
        useful: list[list[Rollout]] = []
        flat: list[list[Rollout]] = []
        for start in range(0, len(rollouts), size):
            group = rollouts[start : start + size]
            spread = len({rollout.reward for rollout in group} - {None}) > 1
            (useful if spread else flat).append(group)
        return useful, flat
