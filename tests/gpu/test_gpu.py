"""The stages on GPUs, each against the CPU where the two can be compared; without a GPU, what a CPU can run of it."""

import functools
import math
from typing import Any

import pytest

from tests.gpu.conftest import Runner, gpus, without

pytestmark = pytest.mark.gpu
both_policies = pytest.mark.parametrize("policy", ["tiny", "smollm2"])
SHARDED = "rl.parallel={processes: 2, sharding: full}"


def needs(*reasons: str | None) -> None:
    """Skips the test for the first of the reasons that there is."""
    for reason in filter(None, reasons):
        pytest.skip(reason)


def needs_gpu(why: str) -> str | None:
    return None if gpus() else f"no GPU here: {why}"


def second_gpu() -> str | None:
    return "one GPU here: NCCL needs one for each process" if gpus() == 1 else None


def assert_samples_the_trained_weights(figures: dict[str, Any], limit: float = 0.1) -> None:
    """As rl.max_logprob_difference does at each step; the weights change from step to step."""
    differences = [step["logprob_difference"] for step in figures["steps"]]
    assert all(0 < difference < limit for difference in differences), differences
    assert sum(step["grad_norm"] or 0 for step in figures["steps"]) > 0


@pytest.mark.parametrize("sleep", [False, True], ids=["awake", "sleeping"])
@both_policies
def test_vllm_beside_the_trainer_has_its_weights(policy: str, sleep: bool, run: Runner) -> None:
    needs(without("vllm"), needs_gpu("vLLM on a CPU has no sleep mode") if sleep else None)
    figures = run("RL exploration", policy, "rl.engine=vllm", f"rl.sleep_mode={str(sleep).lower()}")
    assert_samples_the_trained_weights(figures)


def test_a_vllm_that_keeps_its_first_weights_is_caught(run: Runner) -> None:
    needs(without("vllm"))
    changes = ("rl.engine=vllm", "rl.steps=10", "rl.learning_rate=3e-3")
    figures = run("RL exploration", "tiny", *changes, rollouts="stale")
    assert "vLLM does not have the weights that are trained" in figures.get("message", "no message")


@both_policies
def test_exploration_with_transformers(policy: str, run: Runner) -> None:
    steps = run("RL exploration", policy, "rl.engine=transformers", "rl.steps=2")["steps"]
    assert len(steps) == 2 and all(math.isfinite(step["grad_norm"]) for step in steps)


def assert_same_training(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in ("grad_norm", "entropy"):
        values, expected = ([step[name] for step in figures["steps"]] for figures in (one, other))
        assert values == pytest.approx(expected, rel=5e-3), name
    assert one["steps"][-1]["grad_norm"] > 0


@pytest.fixture
def fixed(run: Runner) -> Any:
    """Explores with made-up rollouts, so that only the training can differ."""
    return functools.partial(run, "RL exploration", "fixed", rollouts="fixed")


def test_the_same_rollouts_teach_the_same_on_gpu_and_cpu(fixed: Any) -> None:
    needs(needs_gpu("this compares one with the CPU"))
    assert_same_training(fixed(), fixed(on_cpu=True))


def test_fsdp_of_one_process_trains_as_without(fixed: Any) -> None:
    assert_same_training(fixed(one_shard=True), fixed())


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_train_as_one_does(sharding: str, fixed: Any) -> None:
    needs(second_gpu())
    two = fixed(f"rl.parallel={{processes: 2, sharding: {sharding}}}")
    assert_same_training(two, fixed())


def test_sharded_weights_reach_vllm(run: Runner) -> None:
    needs(without("vllm"), needs_gpu("each process's vLLM would need its own"), second_gpu())
    assert_samples_the_trained_weights(run("RL exploration", "smollm2", "rl.engine=vllm", SHARDED))


@both_policies
def test_rft_learns(policy: str, run: Runner) -> None:
    losses = run("RFT", policy)["losses"]
    assert losses[-1] < losses[0]


@both_policies
def test_losses_of_rft_are_those_of_the_cpu(policy: str, run: Runner) -> None:
    needs(needs_gpu("this compares one with the CPU"))
    changes = ("rft.epochs=1", "rft.batch_size=8")
    single = run("RFT", policy, "rft.precision=float32", *changes)["losses"]
    mixed = run("RFT", policy, *changes)["losses"]
    expected = run("RFT", policy, *changes, on_cpu=True)["losses"]
    assert single == pytest.approx(expected, rel=1e-3)
    assert mixed == pytest.approx(expected, rel=5e-2)


@pytest.mark.parametrize("quantize", [False, True], ids=["whole", "4-bit"])
def test_lora(quantize: bool, run: Runner) -> None:
    needs(*((needs_gpu("4-bit weights need one"), without("bitsandbytes")) if quantize else ()))
    policy = "smollm2" if gpus() else "tiny"
    lora = f"lora={{rank: 8, quantize: {str(quantize).lower()}}}"
    losses = run("RFT", policy, f"rft.{lora}", "rft.learning_rate=1e-3")["losses"]
    assert losses[-1] < losses[0]
    engine = "vllm" if without("vllm") is None else "transformers"
    figures = run("RL exploration", policy, f"rl.{lora}", "rl.learning_rate=2e-4", f"rl.engine={engine}")
    if engine == "vllm":
        assert_samples_the_trained_weights(figures)


GREEDY = ("eval.temperature=0", "eval.samples=1", "eval.pass_at=[1]")


def share_alike(one: dict[str, Any], other: dict[str, Any], characters: int | None = None) -> float:
    pairs = list(zip(one["completions"], other["completions"], strict=True))
    return sum(here[:characters] == there[:characters] for here, there in pairs) / len(pairs)


@both_policies
def test_greedy_completions_are_those_of_the_cpu(policy: str, run: Runner) -> None:
    needs(needs_gpu("this compares one with the CPU"))
    changes = (*GREEDY, "eval.engine=transformers")
    here = run("evaluation", policy, *changes, single_precision=True)
    assert share_alike(here, run("evaluation", policy, *changes, on_cpu=True)) >= 0.9  # two tokens may be as likely


def test_greedy_completions_of_vllm_are_those_of_transformers(run: Runner) -> None:
    """On a GPU both are in half precision, where ties are frequent: there the first character is compared."""
    needs(without("vllm"))
    one, other = (run("evaluation", "tiny", *GREEDY, f"eval.engine={engine}") for engine in ("vllm", "transformers"))
    assert share_alike(one, other, 1 if gpus() else None) >= (0.8 if gpus() else 0.95)


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
@both_policies
def test_evaluation_measures_what_the_cpu_measures(policy: str, engine: str, run: Runner) -> None:
    """Within four standard errors of two independent samples of the same problems."""
    needs(without("vllm") if engine == "vllm" else None)
    measured = run("evaluation", policy, f"eval.engine={engine}")
    expected = run("evaluation", policy, "eval.engine=transformers", on_cpu=True)
    average = expected["avg"]
    assert measured["engine"] == engine and 0 < average < 1
    assert abs(measured["avg"] - average) <= 4 * math.sqrt(2 * average * (1 - average) / len(expected["completions"]))
