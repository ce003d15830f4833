"""Progress of an exploration run: printed, checkpointed and resumed, step by step."""

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from components.rl_exploration.recorder import CORRECT, RolloutRecorder, shard_name
from components.rl_exploration.run import ExplorationOutputs, ExplorationRun
from components.rl_exploration.step_log import LOGPROB_DIFFERENCE
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.policy.snapshots import save_weights, snapshot_name
from components.shared.progress.checkpoints import Checkpoints
from components.shared.stage import Progress, note, read_json, whole_folder, write_json
from components.shared.training.collectives import all_gather, broadcast
from components.shared.training.lora import merged
from components.shared.training.trainer_output import checkpoint_folder, complete_checkpoint


class StepCallback(TrainerCallback):  # type: ignore[misc]
    """Prints a progress line after each RL step, saves checkpoints, and resumes from them.

    Args:
        run: The run.
        policy: The policy that it started from.
        outputs: Where its outputs go.
        recorder: Records its rollouts; its state belongs to a checkpoint.
        checkpoints: The stage's progress in the object store.
        rank: Rank of this process.
        processes: World size.
    """

    def __init__(
        self,
        run: ExplorationRun,
        policy: Policy,
        outputs: ExplorationOutputs,
        recorder: RolloutRecorder,
        checkpoints: Checkpoints,
        rank: int,
        processes: int,
    ) -> None:
        self._run, self._policy, self._outputs = run, policy, outputs
        self._recorder, self._checkpoints = recorder, checkpoints
        self._rank, self._processes = rank, processes
        self._progress = Progress(run.settings.steps, "steps", silent=rank > 0)

    def resume(self, folder: Path, earlier_state: Path | None) -> Path | None:
        """Restores what an earlier attempt at the run did, or else the state that the segment before left.

        Args:
            folder: Folder to create for the trainer's checkpoint; shared by all processes.
            earlier_state: Training state that the segment before left; None for the first segment.

        Returns:
            Folder of the trainer's checkpoint to resume from; None to start from the beginning.

        Raises:
            InputError: The training state is not that of the segment before.
        """
        run = self._run
        updates_done = broadcast(self._checkpoints.restore(folder))
        if updates_done is None:
            if earlier_state is not None:
                check_state(earlier_state, run.first_step * run.settings.updates_per_step)
            return earlier_state
        done = updates_done // run.settings.updates_per_step
        # Shards of later steps are left out: these steps are sampled again.
        shards = [shard_name(step, rank) for step in range(run.first_step, done) for rank in range(self._processes)]
        self._checkpoints.restore_shards(self._outputs.rollouts, shards)
        snapshots = [snapshot_name(step) for step in range(run.first_step + 1, done + 1)]
        self._checkpoints.restore_shards(self._outputs.snapshots, snapshots)
        self._recorder.resume(read_json(folder / _recorder_file(self._rank)))
        self._progress.resume(done - run.first_step)
        recorded = sum(all_gather(self._recorder.recorded))
        if self._rank == 0:
            steps = f"step {done - run.first_step} of {run.settings.steps}"
            note(f"resuming after {steps}, with {recorded} rollouts")
        return folder

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Prints the step's progress; stops if vLLM samples from other weights than those that are trained."""
        if not logs:
            return
        limit = self._run.settings.max_logprob_difference
        if not (difference := float(logs.get(LOGPROB_DIFFERENCE, 0.0))) <= limit:  # NaN too
            raise InputError(
                f"vLLM and the trainer disagree about the sampled tokens' log-probabilities by {difference:.3f} on "
                f"average (rl.max_logprob_difference is {limit:g}): vLLM does not have the weights that are trained. "
                f"Set rl.engine to transformers, or rl.sleep_mode to false"
            )
        if CORRECT in logs:
            self._progress.advance(1, f"reward {float(logs[CORRECT]):.3f}, entropy {float(logs['entropy']):.2f}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the last update of an RL step: hands over its rollouts, and decides whether to save a checkpoint."""
        settings = self._run.settings
        step, remaining_updates = divmod(state.global_step, settings.updates_per_step)
        if remaining_updates:
            return
        # The update has synchronised all processes: their shards are in place.
        for rank in range(self._processes):
            self._checkpoints.add(self._outputs.rollouts / shard_name(step - 1, rank))
        if settings.snapshot_every and step % settings.snapshot_every == 0:
            self._save_snapshot(kwargs["model"], step)
        if step < self._run.end_step:
            control.should_save = broadcast(self._checkpoints.due())
        else:  # the stage's outputs follow immediately
            control.should_save = self._run.keep_state

    def _save_snapshot(self, model: Any, step: int) -> None:
        weights = merged(model, self._policy)
        if self._rank == 0:
            snapshot = self._outputs.snapshots / snapshot_name(step)
            save_weights(weights, snapshot)
            self._checkpoints.add(snapshot)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Completes the trainer's checkpoint with the recorder's state, and hands it over or keeps it as an output."""
        folder = checkpoint_folder(args, state)
        write_json(folder / _recorder_file(self._rank), self._recorder.state())
        complete_checkpoint(folder, self._rank)
        if self._rank > 0:
            return
        if state.global_step < state.max_steps:
            self._checkpoints.save(folder, state.global_step)
        else:
            with whole_folder(self._outputs.state) as final:
                shutil.copytree(folder, final, dirs_exist_ok=True)


def _recorder_file(rank: int) -> str:
    """Returns the name of a checkpoint's file with the state of a process's recorder."""
    return f"recorder-{rank:04d}.json"


def check_state(state: Path, updates: int) -> None:
    """Raises InputError unless a folder has the training state after that many updates."""
    if not (state / "trainer_state.json").is_file():
        raise InputError(f"{state} has no training state; the stage before has to keep it")
    found = read_json(state / "trainer_state.json")["global_step"]
    if found != updates:
        raise InputError(f"{state} is the training state after {found} updates; expected one after {updates}")
