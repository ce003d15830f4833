"""What the GPU tests run: the real stages in a small size, on whatever device is there. Each body returns its figures.

`python -m tests.gpu.bodies CALL.json` runs one in a process of its own, which frees the device's memory when it ends.
"""

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from components.data_preparation.prepare import prepare_data
from components.evaluation.evaluate import evaluate
from components.rft.refine import refine
from components.rl_exploration import vllm_on_cpu
from components.rl_exploration.explore import explore
from components.shared import accelerator
from components.shared.data.schema import PROBLEMS, TRAJECTORIES, read_rows, write_table
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.policy.checks import check_policy
from components.shared.stage import Progress, read_json, write_json
from components.shared.training.launching import launch
from components.shared.training.parallel import ParallelSettings
from components.shared.training.processes import on_processes
from launch.recipe import Recipe, load_recipe
from tests.countdown_solver import solve
from tests.rl_exploration.fixed_rollouts import explore_fixed
from tests.stage_outputs import exploration_outputs, rft_outputs

ROOT = Path(__file__).resolve().parents[2]
SMOLLM2 = ROOT / "build" / "smollm2-135m"
_TINY = (
    f"base_policy={ROOT / 'recipes' / 'tiny' / 'countdown'}",
    "data.train=['countdown://train?numbers=3&low=1&high=9&count=48&seed=1']",
    "data.benchmarks={dev: 'countdown://dev?numbers=3&low=1&high=9&count=48&seed=2'}",
    *("rl.steps=4", "rl.prompts_per_step=8", "rl.group_size=8", "rl.snapshot_every=0", "rft.batch_size=16"),
    *("rft.epochs=4", "eval.samples=16", "eval.pass_at=[1, 16]", "eval.sequences_per_batch=128"),
)
_SMOLLM2 = (
    f"base_policy={SMOLLM2}",
    f"data.train=[{{uri: {ROOT}/recipes/smollm2/train.jsonl, verifier: math, limit: 24}}]",
    f"data.benchmarks={{dev: {{uri: {ROOT}/recipes/smollm2/dev.jsonl, verifier: math, limit: 16}}}}",
    *("rl.steps=3", "rl.prompts_per_step=2", "rl.micro_batch_size=null", "rl.engine=auto", "rft.micro_batch_size=null"),
    *("eval.engine=auto", "eval.samples=4", "eval.pass_at=[1, 4]", "eval.benchmarks={}", "eval.sequences_per_batch=16"),
)
# With rollouts that explore_fixed makes up, in place of sampled ones.
_FIXED = ("rl.resample_rounds=1", "rl.learning_rate=1e-4", "rl.precision=float32", "rl.engine=transformers")
_RECIPES = {
    "tiny": ("laptop", _TINY),
    "fixed": ("laptop", (*_TINY, *_FIXED)),
    "smollm2": ("smollm2-135m", _SMOLLM2),
}


def recipe_of(policy: str, changes: Iterable[str] = ()) -> Recipe:
    """Returns the recipe of a policy with changes such as `rl.steps=2`; `fixed` is the tiny one."""
    name, small = _RECIPES[policy]
    return load_recipe(ROOT / "recipes" / f"{name}.yaml", (*small, *changes))


def prepare(policy: str, out: Path) -> Path:
    """Makes the stages' inputs, as data preparation does, and an expert for each training problem."""
    recipe = recipe_of(policy)
    outputs = {"policy_out": "policy", "problems_out": "problems", "benchmarks_out": "benchmarks"}
    outputs |= {"report_out": "report.json", "page_out": "page.html"}
    prepare_data(
        recipe.base_policy,
        recipe.data,
        recipe.grading,
        completion_tokens=recipe.rl.max_completion_tokens,
        **{argument: out / name for argument, name in outputs.items()},
    )
    problems = list(read_rows(out / "problems"))
    if policy == "fixed":  # explore_fixed goes by the problems' numbers
        problems = [row | {"problem_id": f"p{i}"} for i, row in enumerate(problems)]
        write_table(out / "problems" / "problems.parquet", PROBLEMS, problems)
    tokenizer = Policy(out / "policy").tokenizer
    rows = []
    for row in problems:
        text = f"\\boxed{{{row['answer']}}}" if policy == "smollm2" else solve(row["answer"])
        ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        rows.append(
            {"problem_id": row["problem_id"], "prompt": row["prompt"], "completion": text, "completion_ids": ids}
            | {"iteration": 1, "step": 0, "rank": 0, "sample_index": 0, "group_id": row["problem_id"]}
            | {"finish_reason": "stop", "reward": 1.0, "policy_id": "made up", "sampled_at": 0}
            | {"verdict": True, "success_rate": 0.5, "dropped_because": None}
        )
    write_table(out / "experts" / "experts.parquet", TRAJECTORIES, rows)
    return out


def step_seconds(tensorboard: Path) -> float:
    """Returns the median time between a training stage's updates, as the trainer logged them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tensorboard)).Reload().Scalars("train/grad_norm")
    times = [event.wall_time for event in events]
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def explore_sharded(*args: Any, **kwargs: Any) -> dict[str, float]:
    """As explore_fixed, if the policy is sharded: transformers and accelerate may leave FSDP out without a word."""
    from torch.distributed.fsdp import FSDPModule
    from transformers import Trainer

    train = Trainer.train

    def check(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        trained = train(self, *args, **kwargs)
        if not isinstance(self.model, FSDPModule):
            raise InputError(f"the policy is not sharded: {type(self.model)}")
        return trained

    Trainer.train = check  # this process ends with the stage
    return explore_fixed(*args, **kwargs)


def rl(recipe: Recipe, given: Path, out: Path, *, rollouts: str = "sampled", one_shard: bool = False) -> dict[str, Any]:
    """Explores; a recipe cannot ask for FSDP2 with `one_shard`, in a single process.

    Rollouts are sampled, fixed (made up, the same on any device), or stale: by a vLLM that keeps its first weights.
    """
    if rollouts == "stale":
        from trl.generation.vllm_generation import VLLMGeneration

        VLLMGeneration.sync_weights = vllm_on_cpu.patch_weight_sync = lambda _: None
    parallel, settings = recipe.rl.parallel, recipe.rl
    if one_shard:
        parallel = ParallelSettings.model_construct(processes=1, nodes=1, volume="", sharding="full")
        settings = settings.model_copy(update={"parallel": parallel})
    function: Callable[..., dict[str, float]] = explore
    if rollouts == "fixed":
        function = explore_sharded if parallel.sharding == "full" else explore_fixed
    args = (given / "policy", given / "problems", settings, recipe.grading)
    keywords = {"iteration": 1, "seed": 1, **exploration_outputs(out)}
    if one_shard:
        one_pod = {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1"}
        with tempfile.TemporaryDirectory() as folder:
            launch(parallel, "rl", Path(folder), function, args, keywords, one_pod)
    else:
        on_processes(parallel, "rl", function, *args, **keywords)
    check_policy(out / "policy", "the explored policy")
    steps = read_json(out / "log.json")["steps"]
    seconds = step_seconds(out / "tensorboard")
    figures = {"steps": steps, "step_seconds": seconds}
    if rollouts == "sampled":
        tokens = sum(len(row["completion_ids"]) for row in read_rows(out / "rollouts", ["completion_ids"]))
        figures["tokens_per_second"] = tokens / len(steps) / seconds
    return figures


def rft(recipe: Recipe, given: Path, out: Path) -> dict[str, Any]:
    """Fine-tunes on the experts."""
    args = (given / "policy", given / "experts", recipe.rft)
    on_processes(recipe.rft.parallel, "rft", refine, *args, iteration=1, seed=1, **rft_outputs(out))
    check_policy(out / "policy", "the fine-tuned policy")
    losses = [update["loss"] for update in read_json(out / "log.json")["updates"]]
    return {"losses": losses, "step_seconds": step_seconds(out / "tensorboard")}


def evaluation(recipe: Recipe, given: Path, out: Path) -> dict[str, Any]:
    """Evaluates the base policy, with the pod's GPUs as the recipe says: all of them."""
    counted: list[tuple[float, int]] = []  # when, and how many samples there were
    advance = Progress.advance

    def count(self: Progress, by: int = 1, text: str = "") -> None:
        advance(self, by, text)
        counted.append((time.monotonic(), self.done))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "advance", count)
        evaluate(
            given / "policy",
            given / "benchmarks",
            recipe.eval,
            recipe.grading,
            name="base",
            kind="base",
            iteration=0,
            seed=1,
            samples_out=out / "samples",
            evaluation_out=out / "evaluation.json",
            page_out=out / "page.html",
        )
    found = read_json(out / "evaluation.json")
    (dev,) = found["evaluations"]
    samples = sorted(read_rows(out / "samples"), key=lambda row: (row["problem_id"], row["sample_index"]))
    figures = {"engine": found["engine"], "avg": dev["avg"], "completions": [row["completion"] for row in samples]}
    (began, before), (ended, after) = counted[0], counted[-1]  # the first batch waits for the engine to start
    if after > before:
        figures["tokens_per_second"] = (after - before) * dev["mean_tokens"] / (ended - began)
    return figures


BODIES: dict[str, Callable[..., dict[str, Any]]] = {
    "RL exploration": rl,
    "RFT": rft,
    "evaluation": evaluation,
}


def main(call_file: str) -> None:
    """Runs the body that a file names, and writes its figures, or a message meant for the user, beside the file."""
    call = json.loads(Path(call_file).read_text())
    if call["single_precision"]:
        accelerator.gpu_has_bfloat16 = lambda: False  # in this process; of a stage's settings only training has one
    given, out = Path(call["given"]), Path(call_file).parent
    try:
        figures = BODIES[call["body"]](recipe_of(call["policy"], call["changes"]), given, out, **call["arguments"])
    except InputError as error:
        figures = {"message": str(error)}
    write_json(out / "figures.json", figures)


if __name__ == "__main__":
    main(sys.argv[1])
