"""Benchmarks the stages against the plain libraries: `make bench`.

Compares exploration with a bare TRL script with the same settings that calls the scorer in its own process; evaluation
with a bare `generate` loop over the same prompts; exploration that saves its progress to an S3 server, as often as the
laptop recipe does and at every step, with exploration that saves none. The two sides run in turn, each in its own
process. The ratio of their medians is what matters, because machines differ and drift; CPU seconds are reported along
with wall-clock seconds, because machines are shared.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from components.shared.data import countdown
from components.shared.data.schema import BENCHMARK_ORDER, PROBLEMS, write_table
from components.shared.grading import GradingSettings
from components.shared.progress.checkpoints import NOWHERE, CheckpointSettings
from components.shared.stage import stage, write_json
from launch.local.s3_server import S3Server

ROOT = Path(__file__).resolve().parent.parent
POLICY = ROOT / "recipes" / "tiny" / "countdown"


class Model(NamedTuple):
    """A policy, and a suitable amount of work."""

    policy: Path
    rl: dict[str, Any]
    eval: dict[str, Any]
    problems: int  # to evaluate it on


MODELS = {
    "tiny": Model(
        POLICY,
        {"steps": 20, "learning_rate": 1e-4, "prompts_per_step": 16, "group_size": 16, "max_completion_tokens": 40},
        {"samples": 32, "pass_at": [1, 32], "max_completion_tokens": 40, "sequences_per_batch": 1024},
        150,
    ),
    "smollm2": Model(
        ROOT / "build" / "smollm2-135m",
        {"steps": 4, "learning_rate": 1e-5, "prompts_per_step": 4, "group_size": 8, "max_completion_tokens": 24}
        | {"temperature": 0.7},
        {"samples": 8, "pass_at": [1, 8], "max_completion_tokens": 24, "sequences_per_batch": 128},
        48,
    ),
}


def write_problems(path: Path, count: int, split: str) -> None:
    """Writes Countdown problems as a table."""
    problems = countdown.generate(split, 3, 1, 9, count, seed=1)
    _write(path, split, "countdown", ((problem.text, problem.answer) for problem in problems))


def write_sums(path: Path) -> None:
    """Writes the problems of recipes/smollm2-135m.yaml as a table: Countdown is too hard for a small language model."""
    lines = (ROOT / "recipes" / "smollm2" / "train.jsonl").read_text().splitlines()
    _write(path, "train", "math", ((row["problem"], row["answer"]) for row in map(json.loads, lines)))


def _write(path: Path, split: str, verifier: str, problems: Iterable[tuple[str, str]]) -> None:
    write_table(
        path,
        PROBLEMS,
        (
            {
                "problem_id": f"{split}{i}",
                "prompt": prompt,
                "answer": answer,
                "source": split,
                "verifier": verifier,
                "difficulty": None,
            }
            for i, (prompt, answer) in enumerate(problems)
        ),
    )


def stage_exploration(work: Path, model: Model, checkpointing: CheckpointSettings = NOWHERE) -> None:
    """Runs our exploration stage, which records everything."""
    from components.rl_exploration.explore import explore
    from components.rl_exploration.settings import ExplorationSettings

    with stage("RL exploration"):
        explore(
            model.policy,
            work / "problems",
            ExplorationSettings.check({**model.rl, "warmup_steps": 0, "weight_decay": 0.0}, "rl"),
            GradingSettings(),
            iteration=1,
            seed=1,
            rollouts_out=work / "rollouts",
            policy_out=work / "policy",
            log_out=work / "log.json",
            page_out=work / "page.html",
            snapshots_out=work / "snapshots",
            state_out=work / "state",
            tensorboard_out=work / "tensorboard",
            checkpointing=checkpointing,
        )


def stage_saving(work: Path, model: Model) -> None:
    """Runs exploration, uploading every shard to an S3 server, and checkpoints as often as by default."""
    stage_exploration(work, model, CheckpointSettings(uri="s3://bench/progress"))


def stage_saving_each_step(work: Path, model: Model) -> None:
    """Runs exploration, uploading every shard to an S3 server, and a checkpoint at every step."""
    stage_exploration(work, model, CheckpointSettings(uri="s3://bench/progress", minutes=0))


def plain_exploration(work: Path, model: Model) -> None:
    """Runs plain TRL: nothing recorded, completions scored in the same process."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    def reward(completions: Any, answer: Any, verifier: Any, **_: Any) -> list[float]:
        return [
            float(countdown.score(a, c[0]["content"]) if v == "countdown" else f"= {a}" in c[0]["content"])
            for v, a, c in zip(verifier, answer, completions, strict=True)
        ]

    dataset = Dataset.from_parquet(str(work / "problems" / "problems.parquet"), cache_dir=str(work / "cache"))
    dataset = dataset.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})
    rl = model.rl
    batch = rl["prompts_per_step"] * rl["group_size"]
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model.policy),
        processing_class=AutoTokenizer.from_pretrained(model.policy, padding_side="left"),
        reward_funcs=reward,
        train_dataset=dataset,
        args=GRPOConfig(
            output_dir=str(work / "trl"),
            max_steps=rl["steps"],
            learning_rate=rl["learning_rate"],
            lr_scheduler_type="constant",
            num_generations=rl["group_size"],
            per_device_train_batch_size=batch,
            max_completion_length=rl["max_completion_tokens"],
            temperature=rl.get("temperature", 1.0),
            epsilon_high=0.28,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            seed=2,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    trainer.train()


def stage_evaluation(work: Path, model: Model) -> None:
    """Runs our evaluation stage: samples, judges, writes every sample."""
    from components.evaluation.evaluate import evaluate
    from components.evaluation.settings import EvaluationSettings

    with stage("evaluation"):
        evaluate(
            model.policy,
            work / "benchmarks",
            EvaluationSettings.check(model.eval, "eval"),
            GradingSettings(),
            name="base",
            kind="base",
            iteration=0,
            seed=1,
            samples_out=work / "samples",
            evaluation_out=work / "evaluation.json",
            page_out=work / "evaluation.html",
        )


def plain_evaluation(work: Path, model: Model) -> None:
    """Runs transformers' generate on the same prompts in the same batches; judges and writes nothing."""
    import pyarrow.parquet as pq
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = AutoModelForCausalLM.from_pretrained(model.policy)
    tokenizer = AutoTokenizer.from_pretrained(model.policy, padding_side="left")
    prompts = pq.read_table(work / "benchmarks" / "dev.parquet")["prompt"].to_pylist()
    chats = [[{"role": "user", "content": p}] for p in prompts for _ in range(model.eval["samples"])]
    size = model.eval["sequences_per_batch"]
    for start in range(0, len(chats), size):
        batch = tokenizer.apply_chat_template(
            chats[start : start + size],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            out = policy.generate(**batch, max_new_tokens=model.eval["max_completion_tokens"], top_k=0)
        tokenizer.batch_decode(out, skip_special_tokens=True)


SIDES = {
    "stage_exploration": stage_exploration,
    "plain_exploration": plain_exploration,
    "stage_evaluation": stage_evaluation,
    "plain_evaluation": plain_evaluation,
    "stage_saving": stage_saving,
    "plain_saving": stage_exploration,  # without progress
    "stage_saving_each_step": stage_saving_each_step,
    "plain_saving_each_step": stage_exploration,
}


BENCHMARKS = ("exploration", "evaluation", "saving", "saving_each_step")


@contextlib.contextmanager
def server_for(name: str, folder: Path) -> Iterator[dict[str, str]]:
    """Yields environment variables for an S3 server if the benchmark needs one; both sides then run beside it."""
    if not name.startswith("saving"):
        yield {}
        return
    server = S3Server(folder / "s3", "bench")
    server.start()
    yield server.environment
    server.stop()


@click.command()
@click.option("--side", type=click.Choice(sorted(SIDES)), hidden=True)
@click.option("--work", type=click.Path(path_type=Path), hidden=True)
@click.option("--model", "named", type=click.Choice(sorted(MODELS)), default="tiny", show_default=True)
@click.option("--runs", default=3, show_default=True, help="Runs of each side.")
@click.option("--only", type=click.Choice(BENCHMARKS), multiple=True, help="Benchmarks to run instead of all.")
def main(side: str | None, work: Path | None, named: str, runs: int, only: tuple[str, ...]) -> None:
    """Time the stages and the plain libraries, and print the ratios; for a larger model only the first two."""
    model = MODELS[named]
    if side and work:
        SIDES[side](work, model)
        return
    if not model.policy.is_dir():
        raise click.ClickException(f"{model.policy} is missing; create it with `make {model.policy.relative_to(ROOT)}`")
    for name in only or BENCHMARKS[: 4 if named == "tiny" else 2]:
        seconds: dict[str, list[float]] = {"stage": [], "plain": []}
        cpu: dict[str, list[float]] = {"stage": [], "plain": []}
        for _ in range(runs):
            for kind in seconds:
                with tempfile.TemporaryDirectory() as folder, server_for(name, Path(folder)) as environment:
                    training = Path(folder) / "problems" / "problems.parquet"
                    if named == "tiny":
                        write_problems(training, 256, "train")
                    else:
                        write_sums(training)
                    write_problems(Path(folder) / "benchmarks" / "dev.parquet", model.problems, "dev")
                    write_json(Path(folder) / "benchmarks" / BENCHMARK_ORDER, ["dev"])
                    began, before = time.monotonic(), _children_seconds()
                    subprocess.run(
                        [sys.executable, __file__, "--side", f"{kind}_{name}", "--work", folder, "--model", named],
                        check=True,
                        capture_output=True,
                        env={**os.environ, **environment},
                    )
                    seconds[kind].append(time.monotonic() - began)
                    cpu[kind].append(_children_seconds() - before)
        result: dict[str, Any] = {"model": named, "what": name, "runs": runs}
        for prefix, values in (("", seconds), ("cpu_", cpu)):
            medians = {kind: round(statistics.median(values[kind]), 2) for kind in values}
            result[f"median_{prefix}seconds"] = medians
            result[f"{prefix}ratio"] = round(medians["stage"] / medians["plain"], 3)
        click.echo(json.dumps(result))


def _children_seconds() -> float:
    """CPU seconds of the subprocesses that have ended."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
