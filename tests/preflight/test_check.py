from pathlib import Path
from typing import Any

import pytest

from components.preflight.check import preflight
from components.preflight.settings import RunSize
from components.shared.errors import InputError
from components.shared.sources import keyed_sources

TRAIN = [{"uri": "countdown://train?count=3"}]
BENCHMARKS = [{"name": "dev", "uri": "countdown://dev?count=3"}]


@pytest.fixture
def check(tmp_path: Path, tiny_policy: Path) -> Any:
    def run(
        train: list[dict[str, Any]] = TRAIN,
        policy: str | Path = tiny_policy,
        memory: float = 0.0,
        artifact_uri: str = "",
        cache_generation: int = 0,
        **changes: Any,
    ) -> tuple[str, dict[str, float]]:
        size = {"steps": 4, "prompts_per_step": 16, "group_size": 16, "max_completion_tokens": 40, "clip_low": 0.2}
        return preflight(
            str(policy),
            keyed_sources(train, BENCHMARKS),
            RunSize.check(size | changes, "rl"),
            accelerator_memory_gib=memory,
            page_out=tmp_path / "page.html",
            artifact_uri=artifact_uri,
            cache_generation=cache_generation,
        )

    return run


def test_in_order(check: Any, tmp_path: Path) -> None:
    version, figures = check()
    assert len(version) == 16
    assert 0 < figures["rl_sampling_gib"] < figures["rl_training_gib"] < 4
    page = (tmp_path / "page.html").read_text()
    assert version in page and "countdown://train?count=3: readable" in page


def test_vllm_takes_its_share_beside_the_trainer(check: Any) -> None:
    """On a GPU vLLM samples; without one, or as it is asked for, transformers does, with all completions at once."""

    def figures(**changes: Any) -> tuple[float, float]:
        found = check(completions_per_forward=1, memory=10.0, **changes)[1]
        return found["rl_training_gib"], found["rl_sampling_gib"]

    alone, at_once = figures(engine="transformers")
    training, sampling = figures(gpu_memory_utilization=0.2)
    assert training == pytest.approx(alone + 0.2 * 10) and sampling == pytest.approx(0.2 * 10, abs=0.01)
    assert figures(gpu_memory_utilization=0.2, engine_sleeps=True) == pytest.approx((alone, sampling))
    assert check(completions_per_forward=1)[1]["rl_sampling_gib"] == pytest.approx(at_once)


def test_processes_share_the_completions(check: Any) -> None:
    one, two = (check(parallel={"processes": n})[1] for n in (1, 2))
    assert one["rl_training_gib"] > two["rl_training_gib"] > one["rl_training_gib"] / 2
    assert one["rl_sampling_gib"] > two["rl_sampling_gib"] > one["rl_sampling_gib"] / 2
    assert one["rollouts_gib"] == two["rollouts_gib"], "batches stay as large as they are"


def test_policies_kept_on_the_way_take_disk(check: Any, tiny_policy: Path) -> None:
    none, kept = (check(steps=40, snapshot_every=every)[1]["training_pod_disk_gib"] for every in (0, 10))
    weights = sum(file.stat().st_size for file in tiny_policy.glob("*.safetensors"))
    assert kept - none == pytest.approx(4 * weights / 2**30, rel=0.01)


def test_the_version_follows_what_the_sources_hold(check: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"

    def version(text: str) -> str:
        file.write_text(text)
        return check([{"uri": str(file)}])[0]

    first = version('{"problem": "Q", "answer": "1"}\n')
    assert version('{"problem": "Q", "answer": "1"}\n') == first
    assert version('{"problem": "Q", "answer": "2"}\n') != first
    assert check()[0] == check(steps=9)[0]  # settings are the stages' own to look at


def test_the_version_follows_the_store_that_artifacts_go_to(check: Any) -> None:
    """What a cached result lies in must be there: another bucket, or a count of the user's, is another version."""
    run = "v2/artifacts/rloop/7d0b3c6e-9d7e-4a53-8a4b-3a1a0f5d5c11/preflight/1f0c6a1e-0b1c-4c0e-8a54-9b1a3f1e2d3c/page"
    here = check()[0]
    assert check(artifact_uri="/home/me/runs/laptop/artifacts/rloop/page")[0] == here
    kfps = check(artifact_uri=f"minio://mlpipeline/{run}")[0]
    assert kfps.startswith(f"{here}-") and kfps != here
    assert check(artifact_uri=f"minio://mlpipeline/{run.replace('7d0b', '8e1c')}")[0] == kfps, "the same in each run"
    others = {
        check(artifact_uri=f"s3://mlpipeline/{run}")[0],
        check(artifact_uri=f"minio://mine/{run}")[0],
        check(artifact_uri=f"s3://mlpipeline/{run}?endpoint=store:8333")[0],
        check(artifact_uri=f"minio://mlpipeline/{run}", cache_generation=1)[0],
        check(cache_generation=1)[0],
    }
    assert len(others) == 5 and not others & {here, kfps}


def test_everything_wrong_is_named_at_once(check: Any) -> None:
    with pytest.raises(InputError) as raised:
        check([{"uri": "no.jsonl"}, {"uri": "reasoning-gym://chain_sums"}], policy="no/policy")
    message = str(raised.value)
    assert message.startswith("3 things are in the way of this run:")
    assert "data.train.0: no such file: no.jsonl" in message
    assert "data.train.1" in message and "Did you mean 'chain_sum'" in message
    assert "no/policy" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": 1.0, "engine": "transformers"},
         "training is estimated at 3 GiB, .* has 1 GiB .*lower rl.completions_per_forward"),
        ({"max_completion_tokens": 2048}, "the model's context is 2048 tokens, prompt included; lower it"),
        ({"memory": 2.0, "prompts_per_step": 4096, "completions_per_forward": 1, "engine": "transformers"},
         "sampling a step.s completions"),
        ({"memory": 2.0, "engine": "vllm"},
         r"training is .*, spread .*, let vLLM give its memory back \(rl.engine_sleeps\), or"),
        ({"memory": 0.7, "completions_per_forward": 1, "gpu_memory_utilization": 0.01, "engine_sleeps": True},
         r"vLLM has 0.0 GiB of an accelerator \(rl.gpu_memory_utilization\), but .* take .* GiB; raise it"),
        ({"memory": 0.7, "completions_per_forward": 1, "gpu_memory_utilization": 1.0, "engine_sleeps": True},
         "sampling is estimated at 1 GiB, .*; lower rl.gpu_memory_utilization"),
    ],
)  # fmt: skip
def test_what_cannot_fit_says_which_key_to_change(check: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(**changes)


def test_a_hub_that_cannot_be_reached_is_no_traceback(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InputError, match="base_policy: model 'some/model' cannot be looked at on the hub"):
        check(policy="hf://some/model")


def test_an_unknown_key_of_a_source_is_an_error() -> None:
    with pytest.raises(InputError, match="unknown recipe key 'data.benchmarks.dev.url'. Did you mean 'uri'"):
        keyed_sources([], [{"name": "dev", "uri": "x.jsonl", "url": "x"}])
