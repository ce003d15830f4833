"""RFT: fine-tunes the iteration's initial policy on the expert trajectories, with TRL.

On the very tokens that were sampled, the loss on the completion alone, its EOS included: what the policy
learns to write is what a policy wrote.
"""

import math
import tempfile
import time
from pathlib import Path
from typing import Any

from components.rft.settings import RFTSettings
from components.shared.data.schema import earlier_expert_files, parquet_files
from components.shared.errors import InputError
from components.shared.policy.policy import (
    eos_token_ids,
    load_tokenizer,
    policy_id,
    prompt_token_ids,
    save_policy,
    training_precision,
)
from components.shared.progress.checkpoints import NOWHERE, Checkpoints, CheckpointSettings
from components.shared.progress.finished import Outputs
from components.shared.reporting import page
from components.shared.stage import Progress, note, write_json
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


def refine(
    policy: str | Path,
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
    """Fine-tunes a policy on expert trajectories; goes on where an earlier attempt at the same was stopped.

    Args:
        policy: folder of the iteration's initial policy; left as it is.
        experts: folder with the expert trajectories.
        settings: the recipe's `rft` section.
        iteration: of RLoop, from 1.
        seed: of the order of trajectories.
        policy_out: folder to make: the next iteration's initial policy.
        log_out: JSON file to write: figures of each update.
        page_out: the same as plots.
        tensorboard_out: folder to make: what the trainer logs, as TensorBoard event files of this attempt.
        checkpointing: where progress is kept.
        tracking: the recipe's `tracking` section.

    With `rft.parallel.processes` each of them calls this; the first one makes the outputs.

    Returns:
        Figures for KFP metrics.

    Raises:
        InputError: an expert does not end with EOS, or training went astray.
    """
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    began = time.monotonic()
    tokenizer, eos = load_tokenizer(policy), eos_token_ids(policy)

    def tokens(rows: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
        prompts = prompt_token_ids(tokenizer, rows["prompt"])
        for problem, ids in zip(rows["problem_id"], rows["completion_ids"], strict=True):
            if not ids or ids[-1] not in eos:
                raise InputError(f"{experts}: a trajectory of problem {problem} does not end with the policy's EOS")
        return {
            "input_ids": [p + c for p, c in zip(prompts, rows["completion_ids"], strict=True)],
            "labels": [[-100] * len(p) + c for p, c in zip(prompts, rows["completion_ids"], strict=True)],
        }

    rank, _ = init_processes()
    parameters = {"settings": settings.model_dump(), "iteration": iteration, "seed": seed}
    outputs = Outputs({"policy": policy_out, "log": log_out, "page": page_out, "tensorboard": tensorboard_out})
    with (
        tempfile.TemporaryDirectory() as own,
        common_folder() as work,
        Checkpoints(checkpointing if rank == 0 else NOWHERE, "rft", parameters, [policy, experts]) as checkpoints,
    ):
        if (figures := broadcast(checkpoints.hand_over(outputs))) is not None:
            return figures
        files = [*parquet_files(experts), *earlier_expert_files(experts)]
        dataset = Dataset.from_parquet([str(file) for file in files], cache_dir=own)
        dataset = dataset.map(tokens, batched=True, remove_columns=dataset.column_names)
        # As the trainer counts: the last batch of an epoch may be smaller.
        updates = math.ceil(math.ceil(len(dataset) / settings.batch_size) * settings.epochs)
        progress = Progress(updates, "updates", silent=rank > 0)

        class UpdateProgress(TrainerCallback):
            """Prints a progress line after each update, and saves what was reached when it is time."""

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
                if logs and "loss" in logs:
                    progress.advance(1, f"loss {float(logs['loss']):.4f}")

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                control.should_save = state.global_step < state.max_steps and broadcast(checkpoints.due())

            def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                all_gather(None)  # all have written what is theirs
                if rank > 0:
                    return
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                (folder / "training_args.bin").unlink()  # a pickle that nothing reads
                checkpoints.save(folder, state.global_step)

        model, adapters = load_for_training(policy, settings.lora, settings.precision, "rft")
        arguments = SFTConfig(
            output_dir=work,
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.lr_schedule,
            warmup_steps=int(updates * settings.warmup_share),
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            per_device_train_batch_size=settings.micro_batch_trajectories,
            gradient_accumulation_steps=settings.process_trajectories // settings.micro_batch_trajectories,
            max_length=None,  # nothing is cut: a trajectory without its end teaches never to stop
            gradient_checkpointing=settings.gradient_checkpointing,
            seed=seed,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            **training_precision(settings.precision),
            **sharding_arguments(settings.parallel),
            **trackers(tracking, f"RFT, iteration {iteration}"),
        )
        allow_sharding(settings.parallel)
        trainer = SFTTrainer(
            model=model,
            peft_config=adapters,
            processing_class=tokenizer,
            train_dataset=dataset,
            args=arguments,
            callbacks=[UpdateProgress(), tensorboard(tensorboard_out)],
        )
        trainer.remove_callback(PrinterCallback)
        resume = Path(work) / "resume"
        if (done := broadcast(checkpoints.restore(resume))) is not None:
            progress.resume(done)
            if rank == 0:
                note(f"goes on after update {done} of {updates}")
        trainer.train(resume_from_checkpoint=str(resume) if done is not None else None)
        refined = merged(trainer.model, policy)

    if rank > 0:
        return {}
    if not all(torch.isfinite(parameter).all() for parameter in refined.parameters()):
        raise InputError("the fine-tuned policy's weights are not finite; lower rft.learning_rate")
    save_policy(refined, policy, policy_out)
    if policy_id(policy_out) == policy_id(policy):
        raise InputError("fine-tuning changed no weight; raise rft.learning_rate or rft.epochs")
    log = [
        {"update": i, "loss": float(e["loss"]), "grad_norm": float(e["grad_norm"])}
        for i, e in enumerate(entry for entry in trainer.state.log_history if "loss" in entry)
    ]
    write_json(
        log_out,
        {
            "iteration": iteration,
            "seed": seed,
            "settings": settings.model_dump(),
            "trajectories": len(dataset),
            "seconds": round(time.monotonic() - began, 1),  # of this attempt
            "tracked_at": tracked_at(tracking),
            "updates": log,
        },
    )
    _write_page(page_out, iteration, len(dataset), log)
    first, last = log[0]["loss"], log[-1]["loss"]
    figures = {"trajectories": len(dataset), "updates": len(log), "first_loss": first, "last_loss": last}
    said = f"{len(log)} updates on {len(dataset)} trajectories; loss {first:.3f} to {last:.3f}"
    checkpoints.finish(outputs, figures, said)
    return figures


def _write_page(path: str | Path, iteration: int, trajectories: int, log: list[dict[str, Any]]) -> None:
    drawing, (loss, norm) = page.new_figure(9, 3, columns=2)
    loss.plot([row["update"] for row in log], [row["loss"] for row in log])
    loss.set_xlabel("update")
    loss.set_ylabel("loss, nats a completion token")
    norm.plot([row["update"] for row in log], [row["grad_norm"] for row in log])
    norm.set_xlabel("update")
    norm.set_ylabel("gradient norm before clipping")
    page.page(
        path,
        f"RFT, iteration {iteration}",
        f"{len(log)} updates on {trajectories:,} expert trajectories.",
        page.figure(drawing, "Loss on the completions' tokens, EOS included, and the gradient norm."),
    )
