"""RL exploration: DAPO from the iteration's policy with TRL, every rollout kept.

The policy's drift from step to step is the exploration: what it samples on the way, right and wrong, is
this stage's main product; the policy it ends at is evaluated, and RFT starts again from the initial one.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from components.rl_exploration import vllm_on_cpu
from components.rl_exploration.recorder import CORRECT, RolloutRecorder, shard_name
from components.rl_exploration.settings import ExplorationSettings
from components.rl_exploration.step_log import LOGPROB_DIFFERENCE, STEP_FIGURES, steps_of, write_page
from components.rl_exploration.trainer_config import check_server, trl_arguments
from components.shared.data.chat import conversation
from components.shared.data.schema import ROLLOUT_STEPS, count_rows, parquet_files, read_rows
from components.shared.errors import InputError
from components.shared.grading import Grader, GradingSettings
from components.shared.policy.policy import (
    accelerator,
    check_room,
    eos_token_ids,
    load_tokenizer,
    policy_id,
    save_policy,
    save_weights,
    snapshot_files,
    snapshot_name,
    training_precision,
)
from components.shared.progress.checkpoints import NOWHERE, Checkpoints, CheckpointSettings
from components.shared.progress.finished import Outputs
from components.shared.sampling.base import chosen_engine
from components.shared.stage import Progress, note, read_json, whole_folder, write_json
from components.shared.training.lora import load_for_training, merged
from components.shared.training.processes import (
    all_gather,
    allow_sharding,
    broadcast,
    common_folder,
    init_processes,
    sharding_arguments,
)
from components.shared.training.tracking import NO_TRACKERS, TrackingSettings, tensorboard, tracked_at, trackers


def _recorder_file(rank: int) -> str:
    """The state of a process's recorder in a checkpoint."""
    return f"recorder-{rank:04d}.json"


def explore(
    policy: str | Path,
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
    """Runs RL from a policy and records every completion; goes on where an earlier attempt at the same was stopped.

    One long RL run can be made in segments: each takes the training state that the one before it left, and the
    weights come out as those of a run in one piece, bit for bit on a CPU.

    Args:
        policy: folder of the iteration's initial policy, or of a long run's; left as it is.
        problems: folder with the training problems.
        settings: the recipe's `rl` section.
        grading: the recipe's `grading` section.
        iteration: of RLoop, from 1.
        seed: of sampling and of the order of problems.
        rollouts_out: folder for the rollout shards.
        policy_out: folder to make: the explored policy.
        log_out: JSON file to write: figures of each step.
        page_out: the same as plots.
        snapshots_out: folder to make: the weights after every `rl.snapshot_every` steps.
        state_out: folder to make: the training state at the end, for the next segment; empty if not kept.
        tensorboard_out: folder to make: what the trainer logs, as TensorBoard event files of this attempt.
        keep_state: whether to keep it.
        segment: of a long run, from 1; its steps are counted from the run's beginning.
        state: what the segment before left; None for the first.
        checkpointing: where progress is kept.
        tracking: the recipe's `tracking` section.

    With `rl.parallel.processes` each of them calls this; the first one makes the outputs, rollouts apart.

    Returns:
        The figures of the run as a whole, for KFP metrics.

    Raises:
        InputError: too few problems, or nothing to learn from for many steps.
    """
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig

    from components.rl_exploration.trainer import ExplorationTrainer

    rank, processes = init_processes()
    if (available := count_rows(problems)) < settings.prompts_per_step:
        raise InputError(
            f"{available} training problems are fewer than rl.prompts_per_step ({settings.prompts_per_step}); "
            f"lower it, or give more problems in data.train"
        )
    engine = chosen_engine(settings.engine)
    prompts = (row["prompt"] for row in read_rows(problems, ["prompt"]))
    length = check_room(policy, prompts, settings.max_completion_tokens, "rl")
    if settings.vllm_server:
        check_server(settings.vllm_server, engine)
    adapted = engine == "vllm" and accelerator() == "cpu"
    if adapted:
        vllm_on_cpu.prepare()
    Path(rollouts_out).mkdir(parents=True, exist_ok=True)
    Path(snapshots_out).mkdir(parents=True, exist_ok=True)
    first, end = (segment - 1) * settings.steps, segment * settings.steps
    began = time.monotonic()
    progress = Progress(settings.steps, "steps", silent=rank > 0)

    class StepProgress(TrainerCallback):
        """Prints a progress line after each RL step, and saves what was reached when it is time."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and not (difference := float(logs.get(LOGPROB_DIFFERENCE, 0.0))) <= settings.max_logprob_difference:
                raise InputError(
                    f"vLLM and the trainer disagree about the sampled tokens' log-probabilities by {difference:.3f} on "
                    f"average (rl.max_logprob_difference is {settings.max_logprob_difference:g}): vLLM has not got the "
                    f"weights that are trained. Set rl.engine to transformers, or rl.sleep_mode to false"
                )
            if logs and CORRECT in logs:
                progress.advance(1, f"reward {float(logs[CORRECT]):.3f}, entropy {float(logs['entropy']):.2f}")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step, within = divmod(state.global_step, settings.updates_per_step)
            if within:
                return
            # The update has brought all processes together: their shards are in place.
            for process in range(processes):
                checkpoints.add(Path(rollouts_out) / shard_name(step - 1, process))
            if settings.snapshot_every and step % settings.snapshot_every == 0:
                weights = merged(kwargs["model"], policy)
                if rank == 0:
                    snapshot = Path(snapshots_out) / snapshot_name(step)
                    save_weights(weights, snapshot)
                    checkpoints.add(snapshot)
            # At the end the stage's outputs follow at once.
            control.should_save = broadcast(checkpoints.due()) if step < end else keep_state

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder / _recorder_file(rank), recorder.state())
            all_gather(None)  # all have written theirs
            if rank > 0:
                return
            (folder / "training_args.bin").unlink()  # a pickle that nothing reads
            if state.global_step < state.max_steps:
                checkpoints.save(folder, state.global_step)
            else:
                with whole_folder(state_out) as final:
                    shutil.copytree(folder, final, dirs_exist_ok=True)

    parameters = {
        "settings": settings.model_dump(),
        "grading": grading.model_dump(),
        "iteration": iteration,
        "seed": seed,
        "segment": segment,
        "keep_state": keep_state,
    }
    outputs = Outputs(
        {
            "rollouts": rollouts_out,
            "policy": policy_out,
            "log": log_out,
            "page": page_out,
            "snapshots": snapshots_out,
            "state": state_out,
            "tensorboard": tensorboard_out,
        }
    )
    with (
        tempfile.TemporaryDirectory() as own,
        common_folder() as work,
        Checkpoints(
            checkpointing if rank == 0 else NOWHERE,
            "rl_exploration",
            parameters,
            [policy, problems, *([state] if state else [])],
        ) as checkpoints,
        Grader(grading) as grader,
    ):
        if (figures := broadcast(checkpoints.hand_over(outputs))) is not None:
            return figures
        dataset = Dataset.from_parquet([str(file) for file in parquet_files(problems)], cache_dir=own).map(
            lambda row: {"prompt": conversation(row["prompt"]), "question": row["prompt"]},
            remove_columns=["source", "difficulty"],
        )
        recorder = RolloutRecorder(
            rollouts_out,
            grader,
            iteration=iteration,
            rank=rank,
            policy_id=policy_id(policy),
            eos_ids=eos_token_ids(policy),
            updates_per_step=settings.updates_per_step,
            max_completion_tokens=settings.max_completion_tokens,
            overlong_tokens=settings.overlong_tokens,
            patience=min(settings.patience, settings.steps),  # a short run must not pass for one that learnt
            all_gather=all_gather,
        )
        resume = Path(work) / "resume"
        updates_done = broadcast(checkpoints.restore(resume))
        if updates_done is not None:
            done = updates_done // settings.updates_per_step
            # Shards of later steps are of a run that ends here: those steps are sampled again.
            shards = [shard_name(s, process) for s in range(first, done) for process in range(processes)]
            checkpoints.restore_shards(rollouts_out, shards)
            checkpoints.restore_shards(snapshots_out, [snapshot_name(s) for s in range(first + 1, done + 1)])
            recorder.resume(read_json(resume / _recorder_file(rank)))
            progress.resume(done - first)
            recorded = sum(all_gather(recorder.recorded))
            if rank == 0:
                note(f"goes on after step {done - first} of {settings.steps}, with {recorded} rollouts")
        elif state is not None:
            resume = Path(state)
            _check_state(resume, first * settings.updates_per_step)
        model, adapters = load_for_training(policy, settings.lora, settings.precision, "rl")
        arguments = GRPOConfig(
            output_dir=work,
            max_steps=end * settings.updates_per_step,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            num_generations=settings.group_size,
            per_device_train_batch_size=settings.micro_batch_completions,
            gradient_accumulation_steps=settings.process_completions // settings.micro_batch_completions,
            generation_batch_size=settings.prompts_per_step * settings.group_size,
            max_completion_length=settings.max_completion_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            loss_type="dapo",
            epsilon=settings.clip_low,
            epsilon_high=settings.clip_high,
            beta=settings.kl_coefficient,
            mask_truncated_completions=settings.mask_truncated,
            gradient_checkpointing=settings.gradient_checkpointing,
            seed=seed + iteration,  # another order of problems in each iteration
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            **training_precision(settings.precision),
            **sharding_arguments(settings.parallel),
            **trl_arguments(engine, settings, length, eos_token_ids(policy)),
            **trackers(
                tracking,
                f"RL exploration, iteration {iteration}" if segment == 1 else f"Vanilla RL, part {segment}",
            ),
        )
        allow_sharding(settings.parallel)
        trainer = ExplorationTrainer(
            recorder=recorder,
            resample_rounds=settings.resample_rounds,
            model=model,
            peft_config=adapters,
            processing_class=load_tokenizer(policy),
            train_dataset=dataset,
            args=arguments,
            callbacks=[StepProgress(), tensorboard(tensorboard_out)],
        )
        trainer.remove_callback(PrinterCallback)
        if adapted:
            vllm_on_cpu.hand_over_whole(trainer.vllm_generation)
        trainer.train(resume_from_checkpoint=str(resume) if resume.is_dir() else None)
        totals = all_gather((recorder.recorded, recorder.correct, recorder.timed_out, recorder.failed))
        recorded, correct, timed_out, failed = (sum(values) for values in zip(*totals, strict=True))
        explored = merged(trainer.model, policy)

    if rank > 0:
        return {}
    if not all(torch.isfinite(parameter).all() for parameter in explored.parameters()):
        raise InputError("the explored policy's weights are not finite; lower rl.learning_rate")
    save_policy(explored, policy, policy_out)
    write_json(Path(rollouts_out) / ROLLOUT_STEPS, {"first": first, "end": end})
    # An object store knows no empty folders, so that both have something in them in any case.
    write_json(Path(snapshots_out) / "steps.json", list(snapshot_files(snapshots_out)))
    write_json(Path(state_out) / "kept.json", keep_state)
    steps = [row for row in steps_of(trainer.state.log_history, settings.updates_per_step) if row["step"] >= first]
    write_json(
        log_out,
        {
            "iteration": iteration,
            "seed": seed,
            "settings": settings.model_dump(),
            "timed_out": timed_out,
            "failed": failed,
            "seconds": round(time.monotonic() - began, 1),  # of this attempt
            "tracked_at": tracked_at(tracking),
            "steps": steps,
        },
    )
    write_page(page_out, iteration, steps, failed / max(1, recorded))
    last = steps[-1]
    rewards = f"reward {steps[0]['reward']:.3f} to {last['reward']:.3f}"
    figures = {
        "rollouts": recorded,
        "correct_rollouts": correct,
        "grading_timed_out": timed_out,
        "grading_failed": failed,
        "grading_failed_share": failed / max(1, recorded),
        **{f"last_step_{name}": last[name] for name in STEP_FIGURES if last[name] is not None},
    }
    checkpoints.finish(outputs, figures, f"{recorded} rollouts, {correct} correct; {rewards}")
    return figures


def _check_state(state: Path, updates: int) -> None:
    """Raises InputError unless a training state is one after so many updates."""
    if not (state / "trainer_state.json").is_file():
        raise InputError(f"{state} holds no training state; the stage before has to keep it")
    found = read_json(state / "trainer_state.json")["global_step"]
    if found != updates:
        raise InputError(f"{state} is the training state after {found} updates; expected one after {updates}")
