"""Runs one long stage in a process of its own, for tests that kill it: STAGE[-lora|-two] WORK OUT CHECKPOINT_URI.

`two`: by two processes of its own, which for evaluation are replicas.
"""

import sys
from pathlib import Path
from typing import Any

from components.shared.grading import GradingSettings
from components.shared.progress.checkpoints import CheckpointSettings
from components.shared.training.processes import on_processes
from tests.stage_outputs import exploration_outputs, rft_outputs

POLICY = Path(__file__).resolve().parents[2] / "recipes" / "tiny" / "countdown"


def main(stage: str, work: Path, out: Path, uri: str) -> None:
    checkpointing = CheckpointSettings(uri=uri, minutes=0)
    stage, _, how = stage.partition("-")
    lora = {"rank": 4} if how == "lora" else {}
    parallel = {"processes": 2} if how == "two" else {}
    if stage == "rl_exploration":
        from components.rl_exploration.explore import explore
        from components.rl_exploration.settings import ExplorationSettings

        values: dict[str, Any] = {"steps": 16 if how == "two" else 60, "learning_rate": 3e-4, "group_size": 8}
        values |= {"prompts_per_step": 8, "prompts_per_update": 4}
        values |= {"snapshot_every": values["steps"] // 4, "lora": lora, "parallel": parallel}
        exploration = ExplorationSettings.check({**values, "max_completion_tokens": 40, "warmup_steps": 0}, "rl")
        on_processes(
            exploration.parallel,
            "rl",
            explore,
            POLICY,
            work / "problems",
            exploration,
            GradingSettings(),
            iteration=1,
            seed=1,
            **exploration_outputs(out),
            checkpointing=checkpointing,
        )
    elif stage == "rft":
        from components.rft.refine import refine
        from components.rft.settings import RFTSettings

        values = {"learning_rate": 2e-4, "epochs": 30, "batch_size": 16, "lora": lora, "parallel": parallel}
        fine_tuning = RFTSettings.check(values, "rft")
        on_processes(
            fine_tuning.parallel,
            "rft",
            refine,
            POLICY,
            work / "experts",
            fine_tuning,
            iteration=1,
            seed=1,
            **rft_outputs(out),
            checkpointing=checkpointing,
        )
    elif stage == "evaluation":
        from components.evaluation.evaluate import evaluate
        from components.evaluation.settings import EvaluationSettings

        values = {"samples": 32, "pass_at": [1, 32], "max_completion_tokens": 40, "sequences_per_batch": 64}
        values["parallel"] = {"replicas": 2 if how == "two" else 1}
        evaluate(
            POLICY,
            work / "benchmarks",
            EvaluationSettings.check(values, "eval"),
            GradingSettings(),
            name="base",
            kind="base",
            iteration=0,
            seed=1,
            samples_out=out / "samples",
            evaluation_out=out / "evaluation.json",
            page_out=out / "page.html",
            checkpointing=checkpointing,
        )
    else:
        from components.verification_filtering.filter import filter_trajectories
        from components.verification_filtering.settings import FilterSettings

        filter_trajectories(
            work / "trajectories",
            work / "problems",
            FilterSettings(),
            GradingSettings(),
            experts_out=out / "experts",
            dropped_out=out / "dropped",
            report_out=out / "report.json",
            page_out=out / "page.html",
            checkpointing=checkpointing,
        )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
