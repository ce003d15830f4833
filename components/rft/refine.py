"""RFT: fine-tunes the iteration's initial policy on the expert trajectories, with TRL.

It trains on the very tokens that were sampled, with the loss on the completion alone, EOS included: what the policy
learns to write is what a policy wrote.
"""

import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.rft.settings import RFTSettings
from components.shared.accelerator import training_precision
from components.shared.data.schema import earlier_expert_files, parquet_files
from components.shared.errors import InputError
from components.shared.loading import loading
from components.shared.policy import Policy
from components.shared.policy.saving import save_policy
from components.shared.progress.checkpoints import NOWHERE, Checkpoints, CheckpointSettings
from components.shared.progress.finished import Outputs
from components.shared.reporting import page
from components.shared.stage import Progress, note, write_json
from components.shared.training.collectives import broadcast, common_folder, init_processes
from components.shared.training.lora import load_for_training, merged
from components.shared.training.parallel import allow_sharding, sharding_arguments, use_one_gpu
from components.shared.training.tracking import NO_TRACKERS, TrackingSettings, tensorboard, tracked_at, trackers
from components.shared.training.trainer_output import check_finite

if TYPE_CHECKING:
    from trl import SFTConfig


def refine(
    policy_path: str | Path,
    experts: str | Path,
    settings: RFTSettings,
    *,
    iteration: int,
    seed: int,
    policy_out: str | Path,
    log_out: str | Path,
    page_out: str | Path,
    tensorboard_out: str | Path,
    checkpointing: CheckpointSettings = NOWHERE,
    tracking: TrackingSettings = NO_TRACKERS,
) -> dict[str, float]:
    """Fine-tunes a policy on expert trajectories; resumes where an earlier attempt was stopped.

    With `rft.parallel`, each of the processes calls this; rank 0 writes the outputs.

    Args:
        policy_path: Folder of the iteration's initial policy; left unchanged.
        experts: Folder with the expert trajectories.
        settings: The recipe's `rft` section.
        iteration: Iteration of RLoop, from 1.
        seed: Seed of the order of trajectories.
        policy_out: Folder to create: the next iteration's initial policy.
        log_out: JSON file to write: figures of each update.
        page_out: HTML file to write: the same as plots.
        tensorboard_out: Folder to create: this attempt's TensorBoard event files.
        checkpointing: The recipe's `store` section: where progress is kept.
        tracking: The recipe's `tracking` section.

    Returns:
        Figures for KFP metrics.

    Raises:
        InputError: An expert does not end with EOS, or training diverged or changed nothing.
    """
    with loading():
        from transformers import PrinterCallback
        from trl import SFTTrainer

        from components.rft.update_callback import UpdateCallback

    began = time.monotonic()
    policy = Policy(policy_path)
    rank, _ = init_processes()
    parameters = {"settings": settings.model_dump(), "iteration": iteration, "seed": seed}
    inputs = [policy_path, experts]
    outputs = Outputs({"policy": policy_out, "log": log_out, "page": page_out, "tensorboard": tensorboard_out})
    with (
        tempfile.TemporaryDirectory() as own,
        common_folder() as work,
        Checkpoints(checkpointing if rank == 0 else NOWHERE, "rft", parameters, inputs) as checkpoints,
    ):
        if (figures := broadcast(checkpoints.hand_over(outputs))) is not None:
            return figures
        dataset = _dataset(policy, experts, own)
        # As the trainer counts: the last batch of an epoch may be smaller.
        updates = math.ceil(math.ceil(len(dataset) / settings.batch_size) * settings.epochs)
        progress = Progress(updates, "updates", silent=rank > 0)
        model, adapters = load_for_training(policy, settings.lora, settings.precision, "rft")
        config = _sft_config(settings, updates, seed, work, tracking, f"RFT, iteration {iteration}")
        allow_sharding(settings.parallel)
        use_one_gpu(config)
        trainer = SFTTrainer(
            model=model,
            peft_config=adapters,
            processing_class=policy.tokenizer,
            train_dataset=dataset,
            args=config,
            callbacks=[UpdateCallback(progress, checkpoints, rank), tensorboard(tensorboard_out)],
        )
        trainer.remove_callback(PrinterCallback)
        resume_from = Path(work) / "resume"
        if (done := broadcast(checkpoints.restore(resume_from))) is not None:
            progress.resume(done)
            if rank == 0:
                note(f"resuming after update {done} of {updates}")
        trainer.train(resume_from_checkpoint=str(resume_from) if done is not None else None)
        refined = merged(trainer.model, policy)

    if rank > 0:
        return {}
    check_finite(refined, "fine-tuned", "rft")
    save_policy(refined, policy, policy_out)
    if Policy(policy_out).id == policy.id:
        raise InputError("fine-tuning changed no weight; raise rft.learning_rate or rft.epochs")
    update_log = _update_log(trainer.state.log_history)
    write_json(
        log_out,
        {
            "iteration": iteration,
            "seed": seed,
            "settings": settings.model_dump(),
            "trajectories": len(dataset),
            "seconds": round(time.monotonic() - began, 1),  # of this attempt
            "tracked_at": tracked_at(tracking),
            "updates": update_log,
        },
    )
    _write_page(page_out, iteration, len(dataset), update_log)
    first, last = update_log[0]["loss"], update_log[-1]["loss"]
    figures = {"trajectories": len(dataset), "updates": len(update_log), "first_loss": first, "last_loss": last}
    result = f"{len(update_log)} updates on {len(dataset)} trajectories; loss {first:.3f} to {last:.3f}"
    checkpoints.finish(outputs, figures, result)
    return figures


def _dataset(policy: Policy, experts: str | Path, cache: str) -> Any:
    """Loads the experts as token IDs and labels, of which a prompt has none.

    Args:
        policy: The policy whose chat template renders the prompts.
        experts: Folder with the expert trajectories.
        cache: Folder for the dataset's files.

    Raises:
        InputError: An expert does not end with EOS.
    """
    from datasets import Dataset

    def tokens(rows: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
        prompts = policy.prompt_token_ids(rows["prompt"])
        for problem, ids in zip(rows["problem_id"], rows["completion_ids"], strict=True):
            if not ids or ids[-1] not in policy.eos_token_ids:
                raise InputError(f"{experts}: a trajectory of problem {problem} does not end with the policy's EOS")
        return {
            "input_ids": [p + c for p, c in zip(prompts, rows["completion_ids"], strict=True)],
            "labels": [[-100] * len(p) + c for p, c in zip(prompts, rows["completion_ids"], strict=True)],
        }

    files = [*parquet_files(experts), *earlier_expert_files(experts)]
    dataset = Dataset.from_parquet([str(file) for file in files], cache_dir=cache)
    return dataset.map(tokens, batched=True, remove_columns=dataset.column_names)


def _sft_config(
    settings: RFTSettings, updates: int, seed: int, work: str, tracking: TrackingSettings, run_name: str
) -> "SFTConfig":
    """Returns the configuration of TRL's trainer.

    Args:
        settings: The recipe's `rft` section.
        updates: Total number of updates.
        seed: Seed of the order of trajectories.
        work: Folder for the trainer's checkpoints.
        tracking: The recipe's `tracking` section.
        run_name: Name of the run in experiment trackers.
    """
    from trl import SFTConfig

    return SFTConfig(
        output_dir=work,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_schedule,
        warmup_steps=int(updates * settings.warmup_share),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        per_device_train_batch_size=settings.micro_batch_trajectories,
        gradient_accumulation_steps=settings.process_trajectories // settings.micro_batch_trajectories,
        max_length=None,  # nothing is truncated: a trajectory without its end teaches the policy never to stop
        gradient_checkpointing=settings.gradient_checkpointing,
        seed=seed,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        **training_precision(settings.precision),
        **sharding_arguments(settings.parallel),
        **trackers(tracking, run_name),
    )


def _update_log(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the loss and gradient norm of each update, from the trainer's log history."""
    updates = (entry for entry in history if "loss" in entry)
    return [
        {"update": i, "loss": float(entry["loss"]), "grad_norm": float(entry["grad_norm"])}
        for i, entry in enumerate(updates)
    ]


def _write_page(path: str | Path, iteration: int, trajectories: int, log: list[dict[str, Any]]) -> None:
    drawing, (loss, norm) = page.new_figure(9, 3, columns=2)
    loss.plot([row["update"] for row in log], [row["loss"] for row in log])
    loss.set_xlabel("update")
    loss.set_ylabel("loss, nats per completion token")
    norm.plot([row["update"] for row in log], [row["grad_norm"] for row in log])
    norm.set_xlabel("update")
    norm.set_ylabel("gradient norm before clipping")
    page.page(
        path,
        f"RFT, iteration {iteration}",
        f"{len(log)} updates on {trajectories:,} expert trajectories.",
        page.figure(drawing, "Loss on the completion tokens, EOS included, and the gradient norm."),
    )
