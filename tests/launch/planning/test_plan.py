"""What a plan prints, and that runs stay within it."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from components.evaluation.evaluate import evaluate
from components.preflight.base_policy import inspect_policy
from components.preflight.disk import policy_bytes
from components.preflight.fit import estimates
from components.preflight.memory import GIB
from components.preflight.settings import RunSize
from components.rft.refine import refine
from components.rl_exploration.explore import explore
from components.shared.data.schema import BENCHMARK_ORDER, PROBLEMS, TRAJECTORIES, read_rows, write_table
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.policy.model_size import ModelSize
from components.shared.progress.uploads import CHECKPOINTS_ON_DISK
from components.shared.sampling.vllm_memory import engine_memory
from components.shared.stage import read_json, write_json
from launch.planning.cost_estimate import CostEstimate, StageCost
from launch.planning.devices import GPUS, device_for
from launch.planning.planned_run import count_parameters, look_at_run, policy_size
from launch.planning.throughput import vllm_seconds
from launch.pools import Pool
from launch.recipe import load_recipe
from pipeline import main
from tests.stage_outputs import exploration_outputs, rft_outputs

ROOT = Path(__file__).resolve().parents[3]
LAPTOP = ROOT / "recipes" / "laptop.yaml"
QWEN = ROOT / "recipes" / "qwen2.5-1.5b.yaml"
QWEN_7B = ROOT / "recipes" / "qwen2.5-math-7b.yaml"
# Qwen2.5-Math-1.5B's config, as published: 1,543,714,304 parameters.
QWEN_CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
# Qwen2.5-Math-7B's: 7,615,616,512 parameters.
QWEN_7B_CONFIG = QWEN_CONFIG | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def words(result: Result) -> str:
    return " ".join(result.output.split())


def by_name(
    overrides: tuple[str, ...] = (), vanilla: bool = False, gpu: str | None = None, recipe: Path = LAPTOP
) -> dict[str, StageCost]:
    run, _ = look_at_run(load_recipe(recipe, overrides, None, vanilla), gpu)
    return {stage.name: stage for stage in CostEstimate(run).stages()}


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    """A folder with only the config of a model."""
    return config_folder(tmp_path / "qwen", QWEN_CONFIG)


@pytest.fixture
def qwen_7b(tmp_path: Path) -> Path:
    """A folder with only the config of the larger model."""
    return config_folder(tmp_path / "qwen-7b", QWEN_7B_CONFIG)


def config_folder(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_laptops_plan() -> None:
    result = run("--recipe", LAPTOP, "--iterations", "3")
    assert result.exit_code == 0, result.output
    text = words(result)
    assert "3 iterations, on cpu" in text and "upper bounds" in text
    assert "512 training problems; dev 120, test 120, four 120, large 120; prompts of 17 tokens" in text
    assert "RL exploration 3 409.6 k 583.7 k" in text, "40 steps x 256 completions x 40 tokens, and prompts of 17"
    assert "total: 6.0 M tokens sampled" in text
    assert "assumed" not in text and "warning: " not in text


def test_tokens_follow_from_the_recipe() -> None:
    stages = by_name()
    assert stages["RL exploration"].sampled == 40 * 16 * 16 * 40
    assert stages["evaluation of base"].sampled == 4 * 120 * 32 * 40
    assert stages["evaluation of base"].times == 1 and stages["evaluation of rloop"].times == 2
    checkpoints = stages["evaluation of explored"].sampled - stages["evaluation of rloop"].sampled
    assert checkpoints == 5 * 48 * 16 * 40, "at step 0 and after 10, 20, 30 and 40"
    assert stages["RFT"].trained == 512 * 8 * 6 * (17 + 40), "8 experts of each problem at most, 6 epochs"
    assert by_name(("filter.max_per_problem=0",))["RFT"].trained == 40 * 256 * 6 * 57
    assert by_name(("eval.benchmarks={dev: {samples: 64}}",))["evaluation of base"].sampled == (3 * 32 + 64) * 120 * 40


def test_vanilla_rl_is_planned_from_the_second_iteration_on() -> None:
    stages = by_name(vanilla=True)
    assert stages["vanilla RL"].times == 1 and stages["vanilla RL"].sampled == stages["RL exploration"].sampled
    checkpoints = stages["evaluation of vanilla"].sampled - stages["evaluation of rloop"].sampled
    assert checkpoints == 4 * 48 * 16 * 40
    assert stages["RL exploration"].written > by_name()["RL exploration"].written, "the training state is kept"
    assert "vanilla RL" not in by_name(("iterations=1",), vanilla=True)


def test_time_grows_with_work_and_falls_with_the_gpu() -> None:
    once, twice = (by_name((f"rl.steps={steps}",))["RL exploration"].seconds for steps in (40, 80))
    start = device_for(Pool(), None).start_seconds
    assert twice - start == pytest.approx(2 * (once - start))
    options = {"recipe": QWEN, "overrides": ("base_policy=recipes/tiny/countdown",)}
    hours = [by_name(**options, gpu=gpu)["RFT"].seconds for gpu in ("l4", "a100-80gb", "h100")]  # type: ignore[arg-type]
    assert hours == sorted(hours, reverse=True)


def test_progress_in_the_object_store_is_counted() -> None:
    without, with_ = (by_name(given)["RL exploration"] for given in ((), ("store.checkpoint_uri=s3://b/p",)))
    assert without.progress == 0 and with_.moved - without.moved == with_.progress > 0


def test_plan_and_preflight_count_the_same_checkpoints_on_the_disk(tiny_policy: Path) -> None:
    nowhere, kept = (by_name(given) for given in ((), ("store.checkpoint_uri=s3://b/p", "store.minutes=0.1")))
    model, _, _ = inspect_policy(str(tiny_policy))
    for stage in ("RL exploration", "RFT"):
        assert kept[stage].disk - nowhere[stage].disk == CHECKPOINTS_ON_DISK * 12 * model.parameters
    size = RunSize.check({"steps": 2, "prompts_per_step": 1, "group_size": 1, "max_completion_tokens": 30}, "rl")
    figures = estimates(model, 128, size, None)
    rest = figures["training_pod_disk_gib"] - figures["rollouts_gib"] - 2 * policy_bytes(model) / GIB
    assert rest == pytest.approx(CHECKPOINTS_ON_DISK * 12 * model.parameters / GIB)


def test_a_config_alone_is_enough(qwen: Path, tiny_policy: Path, tmp_path: Path) -> None:
    assert count_parameters(qwen) == 1_543_714_304
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(tiny_policy / "config.json", bare)
    counted, context = policy_size(str(bare))
    assert counted.parameters == sum(p.numel() for p in Policy(tiny_policy).load_model().parameters())
    read, _ = policy_size(str(tiny_policy))
    assert counted.parameters == pytest.approx(read.parameters, rel=0.01) and context == 2048
    (bare / "config.json").write_text('{"model_type": "no-such"}')
    with pytest.raises(InputError, match="does not describe a model that transformers knows"):
        count_parameters(bare)


def test_the_qwen_recipe_fits_one_gpu(qwen: Path) -> None:
    result = run("--recipe", QWEN, "--set", f"base_policy={qwen}")
    assert result.exit_code == 0, result.output
    text = words(result)
    assert "on h100" in text and "1,543.7 million parameters, context 4096" in text
    assert "14,116 training problems; math500 500, aime24 30, minerva 272, omni 500" in text
    assert "assumed: prompts of 512 tokens" in text
    assert "warning: " not in text and "does not fit" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["rl.prompts_per_step=64", "rl.prompts_per_update=null"],
         "RL exploration, sampling takes .* GiB, .* has 79 GiB; lower rl.prompts_per_step from 64 to 20"),
        (["rl.micro_batch_size=64"],
         "RL exploration, training takes .*; lower rl.micro_batch_size from 64 to 32"),
        (["rl.micro_batch_size=32", "rl.gradient_checkpointing=false"],
         "lower rl.micro_batch_size from 32 to 3 or turn on rl.gradient_checkpointing"),
        (["rft.gradient_checkpointing=false", "rft.micro_batch_size=null"],
         "RFT takes .*; lower rft.micro_batch_size from 64 to 2 or turn on rft.gradient_checkpointing"),
        (["eval.sequences_per_batch=1024"],
         "evaluation takes .*; lower eval.sequences_per_batch from 1024 to 588 or lower eval.max_completion_tokens"),
        (["pools.training.accelerator_memory_gib=20"],
         r"RFT takes 39.9 GiB, .* 20 GiB; use a GPU with more memory \(a100-40gb, .*\) or use a smaller base_policy"),
        (["pools.training.timeout_hours=2"],
         "RL exploration may take 3.. h, but its pod is stopped after 2 hours; raise pools.training.timeout_hours"),
        (["rl.max_completion_tokens=4096"], "rl.max_completion_tokens is 4096, but the model's context is 4096 tokens"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_which_key_to_change(qwen: Path, changes: list[str], message: str) -> None:
    changes = [f"base_policy={qwen}", "rl.engine=transformers", "eval.engine=transformers", *changes]
    result = run("--recipe", QWEN, *(part for change in changes for part in ("--set", change)))
    assert result.exit_code == 0, result.output
    warnings = [line for line in result.output.splitlines() if line.startswith("warning: ")]
    assert any(re.search(message, warning) for warning in warnings), result.output


def test_what_a_warning_advises_fits(qwen: Path) -> None:
    for advice in ("rl.prompts_per_step=20", "rl.micro_batch_size=32", "eval.sequences_per_batch=588"):
        others = ["rl.engine=transformers", "eval.engine=transformers"]
        others += ["rl.prompts_per_update=null"] if "prompts" in advice else []
        overrides = [part for change in (f"base_policy={qwen}", advice, *others) for part in ("--set", change)]
        result = run("--recipe", QWEN, *overrides)
        assert "warning: " not in result.output, result.output


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    result = run("--recipe", QWEN)
    assert result.exit_code == 2
    assert "cannot be read from the Hugging Face Hub" in result.output
    assert "give a folder with the model's config.json: --set base_policy=FOLDER" in result.output


def test_the_device_is_the_one_that_has_the_pools_memory() -> None:
    memories = {24: "l4", 40: "a100-40gb", 79: "h100", 80: "h100", 141: "h200", None: "h100"}
    for memory, name in memories.items():
        assert device_for(Pool(accelerators=1, accelerator_memory_gib=memory), None).name == name
    assert device_for(Pool(), None).name.startswith("cpu")
    assert device_for(Pool(), "a100-80gb") is GPUS["a100-80gb"]
    with pytest.raises(InputError, match="unknown --gpu 'h10'; expected one of l4, .*Did you mean 'h100'"):
        device_for(Pool(), "h10")
    with pytest.raises(InputError, match="no known GPU has 500 GiB"):
        device_for(Pool(accelerators=1, accelerator_memory_gib=500), None)


def test_sources_that_are_elsewhere_are_assumed(tmp_path: Path, tiny_policy: Path) -> None:
    values = yaml.safe_load(LAPTOP.read_text())
    values["data"]["train"] = ["hf://some/data"]
    values["data"]["benchmarks"]["test"] = {"uri": "hf://other/data", "limit": 50}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    result = run("--recipe", path)
    assert result.exit_code == 0, result.output
    assert "assumed: data.train.0 has 1,000 problems (set data.train.0.limit to be exact)" in words(result)
    assert "test 50" in result.output and "prompts of 512 tokens" in result.output


@pytest.mark.slow
def test_a_run_stays_within_its_plan(tmp_path: Path, tiny_policy: Path, problems_folder: Path) -> None:
    """Tokens and bytes of real stages: at most the plan's, and at least the stated part of it."""
    overrides = (
        "rl.steps=4",
        "rl.snapshot_every=2",
        "data.train=['countdown://train?numbers=3&low=1&high=9&count=16&seed=1']",
        "data.benchmarks={dev: 'countdown://train?numbers=3&low=1&high=9&count=16&seed=1'}",
        "iterations=1",
    )
    recipe, plans = load_recipe(LAPTOP, overrides), by_name(overrides)
    out = tmp_path / "out"
    explore(
        tiny_policy,
        problems_folder,
        recipe.rl,
        recipe.grading,
        iteration=1,
        seed=1,
        **exploration_outputs(out / "rl"),
    )
    rollouts = list(read_rows(out / "rl" / "rollouts"))
    experts = [
        row | {"verdict": True, "success_rate": 0.5, "dropped_because": None} for row in rollouts if row["reward"]
    ]
    write_table(tmp_path / "experts" / "experts.parquet", TRAJECTORIES, experts)
    refine(
        tiny_policy,
        tmp_path / "experts",
        recipe.rft,
        iteration=1,
        seed=1,
        **rft_outputs(out / "rft"),
    )
    write_table(tmp_path / "benchmarks" / "dev.parquet", PROBLEMS, read_rows(problems_folder))
    write_json(tmp_path / "benchmarks" / BENCHMARK_ORDER, ["dev"])
    evaluate(
        tiny_policy,
        tmp_path / "benchmarks",
        recipe.eval,
        recipe.grading,
        name="base",
        kind="base",
        iteration=0,
        seed=1,
        samples_out=out / "eval" / "samples",
        evaluation_out=out / "eval" / "evaluation.json",
        page_out=out / "eval" / "page.html",
    )
    (dev,) = read_json(out / "eval" / "evaluation.json")["evaluations"]
    for plan, used, factor in (
        (plans["RL exploration"].sampled, sum(len(row["completion_ids"]) for row in rollouts), 4),
        (plans["evaluation of base"].sampled, round(dev["mean_tokens"] * dev["n"] * dev["problems"]), 4),
        (plans["RL exploration"].written, size(out / "rl"), 2),
        (plans["RFT"].written, size(out / "rft"), 2),
        (plans["evaluation of base"].written, size(out / "eval"), 20),
    ):
        assert used <= plan <= factor * used


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_dynamic_sampling_samples_more_and_trains_the_same() -> None:
    plain, refilled = (by_name((f"rl.resample_rounds={rounds}",))["RL exploration"] for rounds in (0, 3))
    assert refilled.sampled == 4 * plain.sampled and refilled.trained == plain.trained
    assert refilled.seconds > plain.seconds and refilled.disk > plain.disk


def memory_of(result: Result, phase: str) -> list[float]:
    """A row of the memory table, in GiB; 0 for empty cells."""
    row = next(line for line in result.output.splitlines() if line.startswith(phase))
    cells = re.split(r"\s{2,}", row.removeprefix(phase).strip())
    return [0.0 if cell == "-" else float(cell.split()[0]) for cell in cells]


def plan_7b(folder: Path, *changes: str) -> Result:
    return run(
        "--recipe", QWEN_7B, *(part for change in (f"base_policy={folder}", *changes) for part in ("--set", change))
    )


def test_the_7b_recipe_fits_eight_gpus(qwen_7b: Path) -> None:
    result = plan_7b(qwen_7b)
    assert result.exit_code == 0, result.output
    text = words(result)
    assert "7,615.6 million parameters, context 4096" in text and "on 8 h100 per pod and 4 h100 per pod" in text
    assert "warning: " not in text and "does not fit" not in text
    parameters, gib = 7_615_616_512, 2**30
    # weights, optimiser, activations, cache, communication, vLLM, total, available
    training = memory_of(result, "RL exploration: training")
    assert training[0] + training[1] == pytest.approx(16 * parameters / 8 / gib, abs=0.11)
    assert training[4] == pytest.approx(5.9, abs=0.1) and training[5] == 0, "vLLM sleeps"
    sampling = memory_of(result, "RL exploration: sampling")
    assert sampling[0] + sampling[1] == pytest.approx(12 * parameters / 8 / gib, abs=0.11)
    assert sampling[5] == pytest.approx(0.7 * 79, abs=0.06)
    evaluation = memory_of(result, "evaluation: sampling")
    assert evaluation[0] == pytest.approx(2 * parameters / gib, abs=0.06)
    assert evaluation[6] == pytest.approx(0.9 * 79, abs=0.06)
    # 55.3 GiB less 14.2 of weights and 3.4 of activations; 56 KiB a token, 3,584 tokens a sequence: 0.19 GiB each.
    assert "with vLLM, whose KV cache holds 197 full-length sequences, in 306 s (up to 3 times)" in text
    assert re.search(r"training pool 11\d\.\d h \(9\d\d GPU-hours\), inference pool 6\.\d h \(2\d GPU-hours\)", text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["rl.gpu_memory_utilization=0.2"],
         "vLLM has 15.8 GiB of .* 79 GiB, but weights and one sequence of 3584 tokens take 17.8 GiB; raise "
         "rl.gpu_memory_utilization from 0.2 to at least 0.23"),
        (["rl.gpu_memory_utilization=0.95"],
         "the trainer keeps 12.7 GiB and vLLM takes 75.0 GiB, .*; lower rl.gpu_memory_utilization from 0.95 to at most "
         "0.83$"),
        (["rl.sleep_mode=false"], "RL exploration, training takes 9.* GiB, .*; set rl.sleep_mode to true or"),
        (["rl.sleep_mode=false", "rl.gpu_memory_utilization=0.6"],
         "training takes .*; lower rl.micro_batch_size from 4 to 2 or set rl.sleep_mode to true"),
        (["rl.parallel.sharding=none"], "RL exploration, training takes .*; set rl.parallel.sharding to full or"),
        (["rl.parallel.sharding=none"],
         "the trainer keeps 113.5 GiB of .* beside vLLM, .*; shard the policy .*rl.parallel.sharding: full"),
        (["pools.training.accelerator_memory_gib=24"],
         r"the trainer keeps 12.7 GiB of .* 24 GiB beside vLLM, .* take 17.8 GiB; use a GPU .* \(a100-40gb, "),
        (["rft.parallel.sharding=none"], "RFT takes .*; set rft.parallel.sharding to full or"),
        (["rl.parallel.processes=4"],
         "rl.parallel.processes is 4, but pools.training.accelerators is 8: 4 of a pod's GPUs are idle"),
        (["eval.parallel={tensor_parallel_size: 8}", "pools.inference.accelerators=8"],
         "28 attention heads and 4 key-value heads cannot be split over 8 GPUs; set "
         "eval.parallel.tensor_parallel_size to 4"),
        (["eval.parallel.replicas=2"],
         "evaluation uses 2 of a pod's 4 GPUs; leave eval.parallel.replicas out, or lower "
         "pools.inference.accelerators$"),
        (["eval.parallel={tensor_parallel_size: 1}", "eval.gpu_memory_utilization=0.2"],
         "vLLM has 15.8 GiB of .* take .* of 1; raise eval.gpu_memory_utilization to at least 0.23 or raise "
         "eval.parallel.tensor_parallel_size$"),
    ],
)  # fmt: skip
def test_what_does_not_fit_several_gpus_says_which_key_to_change(
    qwen_7b: Path, changes: list[str], message: str
) -> None:
    result = plan_7b(qwen_7b, *changes)
    assert result.exit_code == 0, result.output
    warnings = [line for line in result.output.splitlines() if line.startswith("warning: ")]
    assert any(re.search(message, warning) for warning in warnings), result.output


def test_what_such_a_warning_advises_fits(qwen_7b: Path) -> None:
    for changes in (
        ["rl.gpu_memory_utilization=0.23"],
        ["rl.gpu_memory_utilization=0.83"],
        ["rl.sleep_mode=false", "rl.gpu_memory_utilization=0.6", "rl.micro_batch_size=2"],
        ["eval.gpu_memory_utilization=0.23"],
        ["eval.parallel={}", "pools.inference.accelerators=8"],
    ):
        long = [f"pools.{pool}.timeout_hours=1000" for pool in ("training", "inference")]
        assert "warning: " not in plan_7b(qwen_7b, *changes, *long).output, changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rl.parallel.processes=16", r"^rl.parallel.processes \(16\) must be at most pools.training.accelerators \("),
        ("pools.training.accelerators=4", r"processes \(8\) must be at most pools.training.accelerators \(4\)"),
        ("rft.parallel.processes=16", r"rft.parallel.processes \(16\) must be at most pools.training.accelerators"),
        ("eval.parallel={tensor_parallel_size: 7}",
         r"eval.parallel.tensor_parallel_size \(7\) must be at most pools.inference.accelerators \(4\)"),
        ("eval.parallel={replicas: 4, tensor_parallel_size: 2}",
         r"eval.parallel.replicas x eval.parallel.tensor_parallel_size \(8\) must be at most "
         r"pools.inference.accelerators \(4\)"),
    ],
)  # fmt: skip
def test_more_processes_than_gpus_are_an_error_that_names_both_keys(change: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(QWEN_7B, (change,))


def test_a_machine_whose_gpus_the_recipe_does_not_count_may_have_any_number() -> None:
    assert load_recipe(LAPTOP, ("rl.parallel.processes=2",)).pools.training.accelerators == 0


def test_processes_on_a_cpu_share_its_cores(qwen_7b: Path) -> None:
    two, one = (by_name((f"rl.parallel.processes={n}", f"rft.parallel.processes={n}")) for n in (2, 1))
    for stage in ("RL exploration", "RFT"):
        assert two[stage].seconds == pytest.approx(one[stage].seconds, rel=0.1)
    result = run("--recipe", QWEN_7B, "--gpu", "cpu", "--set", f"base_policy={qwen_7b}")
    assert "idle" not in result.output and "GPU-hours" not in result.output and "vLLM" not in result.output


def test_processes_divide_the_time_and_vllm_shortens_it(qwen_7b: Path) -> None:
    def seconds(*changes: str) -> dict[str, StageCost]:
        return by_name((f"base_policy={qwen_7b}", *changes), recipe=QWEN_7B)

    start = GPUS["h100"].start_seconds
    eight, four = seconds(), seconds("rl.parallel.processes=4", "rft.parallel.processes=4")
    assert four["RFT"].seconds - start == pytest.approx(2 * (eight["RFT"].seconds - start))
    # Four GPUs have twice as many sequences each, and the cache holds about as many at once as before.
    assert four["RL exploration"].seconds - start == pytest.approx(
        2 * (eight["RL exploration"].seconds - start), rel=0.03
    )
    assert eight["RL exploration"].sampled == four["RL exploration"].sampled
    transformers = seconds("rl.engine=transformers", "eval.engine=transformers")
    for stage in ("RL exploration", "evaluation of base"):
        assert transformers[stage].seconds > eight[stage].seconds
    narrow = seconds("rl.gpu_memory_utilization=0.3")
    assert narrow["RL exploration"].seconds > eight["RL exploration"].seconds, "fewer sequences at once"


def test_vllms_time_follows_from_what_a_step_reads() -> None:
    model = ModelSize.with_parameters(QWEN_7B_CONFIG, 7_615_616_512)
    engine = engine_memory(model, 64 * 2**30, 1024, 4096)
    assert engine.at_once > 200
    few = replace(engine, at_once=100)
    h100 = GPUS["h100"]  # 3.35 TB/s x 0.6, 989 TFLOPS x 0.35
    # 100 sequences of 512 and on the average 1,536 tokens at 56 KiB, and 15.2 GB of weights, 3,072 x 10.24 times.
    step = (100 * (512 + 1536) * 57344 + 2 * model.parameters) / (3.35e12 * 0.6)
    prompts = 2 * model.parameters * 64 * 512 / (989e12 * 0.35)
    assert vllm_seconds(h100, model, few, 1024, 64, 512, 3072) == pytest.approx(3072 * 10.24 * step + prompts, rel=0.01)
    # A thousand at once are bound by arithmetic on a GPU that computes a tenth, and a tiny model by the host's 5 ms.
    slow = replace(h100, flops=h100.flops / 10)
    step = 2 * model.parameters * 1000 / (98.9e12 * 0.35)
    assert vllm_seconds(slow, model, replace(engine, at_once=1000), 1000, 0, 512, 3072) == pytest.approx(3072 * step)
    tiny = replace(model, parameters=10_000_000)
    small = engine_memory(tiny, 64 * 2**30, 4, 64)
    assert vllm_seconds(h100, tiny, small, 4, 0, 32, 32) == pytest.approx(32 * 0.005)
