import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from components.preflight.check import preflight
from components.preflight.settings import RunSize
from components.shared.data import countdown
from components.shared.data.sources import keyed_sources
from components.shared.errors import InputError
from components.shared.object_store import open_store
from components.shared.object_store.s3 import new_client

TRAIN = [{"uri": "countdown://train?count=512"}]
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
    assert version in page and "countdown://train?count=512: readable" in page


def test_vllm_takes_its_share_beside_the_trainer(check: Any) -> None:
    """On a GPU vLLM samples; without one, or as it is asked for, transformers does, with all completions at once."""

    def figures(**changes: Any) -> tuple[float, float]:
        found = check(micro_batch_size=1, memory=10.0, **changes)[1]
        return found["rl_training_gib"], found["rl_sampling_gib"]

    alone, at_once = figures(engine="transformers")
    training, sampling = figures(gpu_memory_utilization=0.2)
    assert training == pytest.approx(alone + 0.2 * 10) and sampling == pytest.approx(0.2 * 10, abs=0.01)
    assert figures(gpu_memory_utilization=0.2, sleep_mode=True) == pytest.approx((alone, sampling))
    assert check(micro_batch_size=1)[1]["rl_sampling_gib"] == pytest.approx(at_once)


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
        return check([{"uri": str(file)}], prompts_per_step=1)[0]

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
    assert message.startswith("3 errors to fix before this run can start:")
    assert "data.train.0: no such file: no.jsonl" in message
    assert "data.train.1" in message and "Did you mean 'chain_sum'" in message
    assert "no/policy" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": 1.0, "engine": "transformers"},
         "training is estimated to take 3 GiB, .* has 1 GiB .*lower rl.micro_batch_size"),
        ({"max_completion_tokens": 2048}, "the model's context is 2048 tokens, prompt included; lower rl.max_"),
        ({"memory": 2.0, "prompts_per_step": 4096, "micro_batch_size": 1, "engine": "transformers"},
         "sampling a step.s completions"),
        ({"memory": 2.0, "engine": "vllm"},
         r"training is .*, shard .*, let vLLM release its memory during training \(rl.sleep_mode\), or"),
        ({"memory": 0.7, "micro_batch_size": 1, "gpu_memory_utilization": 0.01, "sleep_mode": True},
         r"vLLM may use 0.0 GiB of an accelerator \(rl.gpu_memory_utilization\), but .* take .* GiB; raise rl.gpu_"),
        ({"memory": 0.7, "micro_batch_size": 1, "gpu_memory_utilization": 1.0, "sleep_mode": True},
         "sampling is estimated to take 1 GiB, .*; lower rl.gpu_memory_utilization"),
    ],
)  # fmt: skip
def test_what_cannot_fit_says_which_key_to_change(check: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(**changes)


def test_fewer_problems_than_a_step_takes_are_said_at_once(check: Any, tmp_path: Path) -> None:
    rows = [{"problem": f"{i} + 1?", "answer": str(i + 1)} for i in range(14)]
    rows += [{"problem": "0 + 1?", "answer": "1"}, {"problem": "Show it.", "answer": "proof"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"uri": str(tmp_path / "a.jsonl")}
    with pytest.raises(InputError, match=r"data.train has 14 usable problems, fewer than rl.prompts_per_step \(16\)"):
        check([source])
    check([source], prompts_per_step=14)
    check([source, {"uri": "countdown://train?count=2"}])
    (tmp_path / "a.jsonl").write_text(json.dumps({"problem": "Show it.", "answer": "proof"}))
    with pytest.raises(InputError, match="none of the first 1 rows can be used; line 1: proof. Set prompt"):
        check([source])


def test_what_the_policy_is_sent_is_shown(check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check()
    first = next(iter(countdown.generate("train", 3, 1, 9, 1, seed=0))).text
    assert f"first prompt of data.train.0, as sent to the policy: '{first}\\n'" in capsys.readouterr().out
    assert first in (tmp_path / "page.html").read_text()


def test_a_users_verifier_is_tried(check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_of_mine.py").write_text("def judge(answer, completion): return 0.5")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"data.train.0: verifier 'half_of_mine:judge' .* returned 0.5 \(float\)"):
        check([{**TRAIN[0], "verifier": "half_of_mine:judge"}])


def test_a_hub_that_cannot_be_reached_is_no_traceback(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InputError, match="base_policy: model 'some/model' cannot be read from the Hugging Face Hub"):
        check(policy="hf://some/model")


def test_an_unknown_key_of_a_source_is_an_error() -> None:
    with pytest.raises(InputError, match="unknown recipe key 'data.benchmarks.dev.url'. Did you mean 'uri'"):
        keyed_sources([], [{"name": "dev", "uri": "x.jsonl", "url": "x"}])


@pytest.mark.parametrize("root", [True, False])
def test_a_policy_in_a_bucket_is_looked_at_without_its_weights(
    check: Any, s3: Any, tmp_path: Path, tiny_policy: Path, root: bool
) -> None:
    bucket = f"policy-{'root' if root else 'folder'}"
    new_client(s3.endpoint).make_bucket(bucket)
    uri = f"s3://{bucket}" if root else f"s3://{bucket}/a #1?%20b/policy"
    store = open_store(uri)
    for file in tiny_policy.iterdir():
        store.upload_file(file, file.name)
    assert check(policy=uri)[1] == check(policy=tiny_policy)[1]
    weights = load_file(tiny_policy / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    store.upload_file(tmp_path / "model.safetensors", "model.safetensors")
    with pytest.raises(InputError, match="missing are 1 of 38 tensors: model.layers.0.mlp.up_proj.weight"):
        check(policy=uri)
    store.delete("tokenizer.json")
    with pytest.raises(InputError, match="has no tokenizer"):
        check(policy=uri)
