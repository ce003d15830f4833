"""RL exploration: DAPO from the iteration's policy with TRL, every rollout recorded.

The policy's drift from step to step is the exploration: the rollouts, right and wrong, are this stage's main product.
The policy it ends at is evaluated; RFT starts again from the initial one.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from components.rl_exploration import vllm_on_cpu
from components.rl_exploration.recorder import RolloutCounts, RolloutRecorder
from components.rl_exploration.run import ExplorationOutputs, ExplorationRun
from components.rl_exploration.settings import ExplorationSettings
from components.rl_exploration.step_log import STEP_FIGURES, steps_of, write_page
from components.rl_exploration.trainer_config import grpo_config
from components.rl_exploration.vllm_server import check_server
from components.shared.accelerator import accelerator
from components.shared.data.chat import conversation
from components.shared.data.schema import ROLLOUT_STEPS, count_rows, parquet_files, read_rows
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingSettings
from components.shared.loading import loading
from components.shared.policy import Policy
from components.shared.policy.saving import save_policy
from components.shared.policy.snapshots import snapshot_files
from components.shared.progress.checkpoints import NOWHERE, Checkpoints, CheckpointSettings
from components.shared.progress.finished import Outputs
from components.shared.sampling.engines import Engine, chosen_engine
from components.shared.stage import write_json
from components.shared.training.collectives import all_gather, broadcast, common_folder, init_processes
from components.shared.training.lora import load_for_training, merged
from components.shared.training.parallel import allow_sharding, use_one_gpu
from components.shared.training.tracking import NO_TRACKERS, TrackingSettings, tensorboard, tracked_at
from components.shared.training.trainer_output import check_finite


def explore(
    policy_path: str | Path,
    problems: str | Path,
    settings: ExplorationSettings,
    grading: GradingSettings,
    *,
    iteration: int,
    seed: int,
    rollouts_out: str | Path,
    policy_out: str | Path,
    log_out: str | Path,
    page_out: str | Path,
    snapshots_out: str | Path,
    state_out: str | Path,
    tensorboard_out: str | Path,
    keep_state: bool = False,
    segment: int = 1,
    state: str | Path | None = None,
    checkpointing: CheckpointSettings = NOWHERE,
    tracking: TrackingSettings = NO_TRACKERS,
) -> dict[str, float]:
    """Runs RL from a policy and records every completion; resumes where an earlier attempt was stopped.

    One long RL run can be made in segments: each takes the training state that the one before it left, and the weights
    are those of a run in one piece, bit for bit on a CPU.

    With `rl.parallel`, each of the processes calls this; rank 0 writes the outputs, and each rank its rollouts.

    Args:
        policy_path: Folder of the policy that the iteration, or a long run, starts from; left unchanged.
        problems: Folder with the training problems.
        settings: The recipe's `rl` section.
        grading: The recipe's `grading` section.
        iteration: Iteration of RLoop, from 1.
        seed: Seed of sampling and of the order of problems.
        rollouts_out: Folder for the rollout shards.
        policy_out: Folder to create: the explored policy.
        log_out: JSON file to write: figures of each step.
        page_out: HTML file to write: the same as plots.
        snapshots_out: Folder to create: intermediate checkpoints, the weights after every `rl.snapshot_every` steps.
        state_out: Folder to create: the training state at the end, for the next segment; empty if not kept.
        tensorboard_out: Folder to create: this attempt's TensorBoard event files.
        keep_state: Whether to keep the training state at the end.
        segment: Segment of a long run, from 1; steps are counted from the run's beginning.
        state: Training state that the segment before left; None for the first segment.
        checkpointing: The recipe's `store` section: where progress is kept.
        tracking: The recipe's `tracking` section.

    Returns:
        Figures of the run as a whole, for KFP metrics.

    Raises:
        InputError: There are too few problems, or nothing to learn from for many steps.
    """
    rank, processes = init_processes()
    policy = Policy(policy_path)
    run = ExplorationRun(settings, iteration, seed, segment, keep_state)
    outputs = ExplorationOutputs(
        *map(Path, (rollouts_out, policy_out, log_out, page_out, snapshots_out, state_out, tensorboard_out))
    )
    engine, length = _check_inputs(policy, problems, settings)
    vllm_runs_on_cpu = engine == "vllm" and accelerator() == "cpu"
    if vllm_runs_on_cpu:
        vllm_on_cpu.prepare()
    outputs.rollouts.mkdir(parents=True, exist_ok=True)
    outputs.snapshots.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    parameters = {**run._asdict(), "settings": settings.model_dump(), "grading": grading.model_dump()}
    inputs = [policy_path, problems, *([state] if state else [])]
    finished = Outputs(outputs._asdict())
    with (
        tempfile.TemporaryDirectory() as own,
        common_folder() as work,
        Checkpoints(checkpointing if rank == 0 else NOWHERE, "rl_exploration", parameters, inputs) as checkpoints,
        Grader(grading) as grader,
    ):
        if (figures := broadcast(checkpoints.hand_over(finished))) is not None:
            return figures
        grader.warm_up(row["verifier"] for row in read_rows(problems, ["verifier"]))  # while TRL is imported
        with loading():
            from transformers import PrinterCallback

            from components.rl_exploration.step_callback import StepCallback
            from components.rl_exploration.trainer import ExplorationTrainer

            dataset = _dataset(problems, own)
        recorder = RolloutRecorder(
            outputs.rollouts, grader, policy, settings, iteration=iteration, rank=rank, all_gather=all_gather
        )
        steps = StepCallback(run, policy, outputs, recorder, checkpoints, rank, processes)
        resume_from = steps.resume(Path(work) / "resume", Path(state) if state is not None else None)
        model, adapters = load_for_training(policy, settings.lora, settings.precision, "rl")
        config = grpo_config(run, policy, engine, length, work, tracking)
        allow_sharding(settings.parallel)
        use_one_gpu(config)
        trainer = ExplorationTrainer(
            recorder=recorder,
            resample_rounds=settings.resample_rounds,
            model=model,
            peft_config=adapters,
            processing_class=policy.tokenizer,
            train_dataset=dataset,
            args=config,
            callbacks=[steps, tensorboard(outputs.tensorboard)],
        )
        trainer.remove_callback(PrinterCallback)
        if vllm_runs_on_cpu:
            vllm_on_cpu.patch_weight_sync(trainer.vllm_generation)
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        counts = RolloutCounts(*map(sum, zip(*all_gather(recorder.counts), strict=True)))
        explored = merged(trainer.model, policy)

    if rank > 0:
        return {}
    check_finite(explored, "explored", "rl")
    save_policy(explored, policy, outputs.policy)
    step_log = steps_of(trainer.state.log_history, settings.updates_per_step)
    step_log = [row for row in step_log if row["step"] >= run.first_step]
    _write_logs(run, outputs, counts, step_log, round(time.monotonic() - began, 1), tracked_at(tracking))
    figures = _figures(counts, step_log[-1])
    rewards = f"reward {step_log[0]['reward']:.3f} to {step_log[-1]['reward']:.3f}"
    checkpoints.finish(finished, figures, f"{counts.recorded} rollouts, {counts.correct} correct; {rewards}")
    return figures


def _check_inputs(policy: Policy, problems: str | Path, settings: ExplorationSettings) -> tuple[Engine, int]:
    """Checks what can be checked before anything starts.

    Returns:
        The sampling engine, and the number of tokens of the longest prompt and its completion together.

    Raises:
        InputError: There are too few problems or too long ones, or the engine cannot be used.
    """
    if (available := count_rows(problems)) < settings.prompts_per_step:
        raise InputError(
            f"{available} training problems are fewer than rl.prompts_per_step ({settings.prompts_per_step}); "
            f"lower it, or give more problems in data.train"
        )
    engine = chosen_engine(settings.engine)
    prompts = (row["prompt"] for row in read_rows(problems, ["prompt"]))
    length = policy.check_room(prompts, settings.max_completion_tokens, "rl")
    if settings.vllm_server:
        check_server(settings.vllm_server, engine)
    return engine, length


def _dataset(problems: str | Path, cache: str) -> Any:
    """Loads the training problems as a dataset for TRL: the prompt as a conversation, the user message as `question`.

    Args:
        problems: Folder with the training problems.
        cache: Folder for the dataset's files.
    """
    from datasets import Dataset

    return Dataset.from_parquet([str(file) for file in parquet_files(problems)], cache_dir=cache).map(
        lambda row: {"prompt": conversation(row["prompt"]), "question": row["prompt"]},
        remove_columns=["source", "difficulty"],
    )


def _write_logs(
    run: ExplorationRun,
    outputs: ExplorationOutputs,
    counts: RolloutCounts,
    step_log: list[dict[str, Any]],
    seconds: float,
    tracker_urls: dict[str, str],
) -> None:
    """Writes everything beside the rollouts, the policy and the training state."""
    write_json(outputs.rollouts / ROLLOUT_STEPS, {"first": run.first_step, "end": run.end_step})
    # An object store has no empty folders, so each of these two always gets a file.
    write_json(outputs.snapshots / "steps.json", list(snapshot_files(outputs.snapshots)))
    write_json(outputs.state / "kept.json", run.keep_state)
    write_json(
        outputs.log,
        {
            "iteration": run.iteration,
            "seed": run.seed,
            "settings": run.settings.model_dump(),
            "timed_out": counts.timed_out,
            "failed": counts.failed,
            "seconds": seconds,  # of this attempt
            "tracked_at": tracker_urls,
            "steps": step_log,
        },
    )
    write_page(outputs.page, run.iteration, step_log, counts.failed_share)


def _figures(counts: RolloutCounts, last_step: dict[str, Any]) -> dict[str, float]:
    return {
        "rollouts": counts.recorded,
        "correct_rollouts": counts.correct,
        "grading_timed_out": counts.timed_out,
        "grading_failed": counts.failed,
        "grading_failed_share": counts.failed_share,
        **{f"last_step_{name}": last_step[name] for name in STEP_FIGURES if last_step[name] is not None},
    }
