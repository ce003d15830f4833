"""Local files in a recipe: rejected for a cluster, or uploaded and replaced by their URIs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from components.preflight.base_policy import inspect_policy
from components.shared.data.sources import read_source
from components.shared.errors import InputError
from components.shared.object_store import open_store
from components.shared.object_store.inputs import fetch_folder, stored_version
from launch.images import ROOT
from launch.kubeflow.inputs import plan_uploads, require_visible, sources_of, upload_input, upload_root, with_uploads
from launch.recipe import Recipe, load_recipe
from pipeline import main
from tests.conftest import TestServer
from tests.launch.stand_in.server import FakeKfp

Call = Callable[..., Result]
LAPTOP = ROOT / "recipes" / "laptop.yaml"


def laptop(*overrides: str) -> Recipe:
    return load_recipe(LAPTOP, overrides)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A recipe whose base policy and data are in a local folder."""
    shutil.copytree(ROOT / "recipes" / "tiny" / "countdown", tmp_path / "policy")
    (tmp_path / "policy" / "pytorch_model.bin").write_bytes(b"never taken")
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"problem": "{name}?", "answer": "1"}}\n')
    values = yaml.safe_load(LAPTOP.read_text())
    values["base_policy"] = str(tmp_path / "policy")
    values["data"] = {
        "train": ["countdown://train?count=64", {"uri": str(tmp_path / "train.jsonl"), "verifier": "math"}],
        "benchmarks": {"dev": str(tmp_path / "dev.jsonl")},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


# what no pod can see


@pytest.mark.parametrize("name", ["laptop", "arithmetic", "shortest-path", "qwen2.5-1.5b", "qwen2.5-math-7b"])
def test_these_recipes_can_run_on_a_cluster_as_they_are(name: str) -> None:
    require_visible(load_recipe(ROOT / "recipes" / f"{name}.yaml"))


@pytest.mark.parametrize("policy", ["./recipes/tiny/countdown/", "recipes/tiny/arithmetic", "s3://b/p", "hf://a/b@c"])
def test_a_base_policy_that_pods_see(policy: str) -> None:
    require_visible(laptop(f"base_policy={policy}"))


@pytest.mark.parametrize(
    "policy", ["recipes/tiny", "recipes/smollm2", "build/x", "/app/x", str(ROOT / "recipes" / "tiny" / "countdown")]
)
def test_a_base_policy_that_no_pod_sees(policy: str) -> None:
    with pytest.raises(InputError) as refused:
        require_visible(laptop(f"base_policy={policy}"))
    assert f"- base_policy: {policy}\n" in str(refused.value) and "--upload-to s3://" in str(refused.value)


def test_another_policy_of_a_tiny_ones_name_is_not_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    require_visible(laptop())
    (tmp_path / "recipes" / "tiny" / "countdown").mkdir(parents=True)
    with pytest.raises(InputError, match="- base_policy: recipes/tiny/countdown"):
        require_visible(laptop())


def test_every_key_is_named_at_once(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "set").mkdir(parents=True)
    overrides = ["data.train.0=hf://mine/set?split=train", "store.checkpoint_uri=runs/p", "store.publish_uri=/out"]
    with pytest.raises(InputError) as refused:
        require_visible(load_recipe(local, overrides))
    said = str(refused.value)
    for key, value in (
        ("base_policy", tmp_path / "policy"),
        ("data.train.0", "hf://mine/set?split=train (a local folder"),
        ("data.train.1", tmp_path / "train.jsonl"),
        ("data.benchmarks.dev", tmp_path / "dev.jsonl"),
        ("store.checkpoint_uri", "runs/p"),
        ("store.publish_uri", "/out"),
    ):
        assert f"- {key}: {value}" in said
    require_visible(laptop("store.checkpoint_uri=s3://b/progress"))


def test_submit_and_schedule_refuse_before_they_ask_the_cluster(kfp: FakeKfp, call: Call, local: Path) -> None:
    for command in (["submit"], ["submit", "--dry-run"], ["schedule", "--cron", "@daily"]):
        refused = call(*command, recipe=local)
        assert refused.exit_code == 2 and "which the cluster's pods cannot read" in refused.output
    assert not kfp.requests


# uploading


def test_where_uploads_go() -> None:
    kept = laptop("store.checkpoint_uri=s3://bucket/a/progress")
    assert upload_root(kept, None) == "s3://bucket/rloop-inputs"
    assert upload_root(kept, "minio://other/x/") == "minio://other/x"
    for recipe, to in ((laptop(), None), (laptop("store.checkpoint_uri=runs/p"), None), (kept, "x"), (kept, "s3://")):
        with pytest.raises(InputError, match="--upload-to"):
            upload_root(recipe, to)


def test_the_same_content_has_the_same_uri(local: Path, tmp_path: Path) -> None:
    recipe = load_recipe(local)
    before = {upload.key: upload.uri for upload in plan_uploads(recipe, "s3://b/x")}
    assert list(before) == ["base_policy", "data.train.1", "data.benchmarks.dev"]
    assert before["data.train.1"].startswith("s3://b/x/") and before["data.train.1"].endswith("/train.jsonl")
    (tmp_path / "policy" / "pytorch_model.bin").write_bytes(b"other")
    assert {upload.key: upload.uri for upload in plan_uploads(recipe, "s3://b/x")} == before
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"problem": "more?", "answer": "2"}\n')
    (tmp_path / "policy" / "generation_config.json").write_text("{}")
    changed = {upload.key for upload in plan_uploads(recipe, "s3://b/x") if upload.uri != before[upload.key]}
    assert changed == {"base_policy", "data.train.1"}


def test_what_cannot_be_uploaded_is_said_before_anything_is(local: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.benchmarks\.dev: no such file: .*gone\.jsonl"):
        plan_uploads(load_recipe(local, ["data.benchmarks.dev=gone.jsonl"]), "s3://b/x")
    (tmp_path / "policy" / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config\.json"):
        plan_uploads(load_recipe(local), "s3://b/x")


def test_uploads_are_read_where_the_recipe_then_names_them(local: Path, tmp_path: Path, s3: TestServer) -> None:
    recipe = load_recipe(local)
    uploads = plan_uploads(recipe, f"s3://{s3.bucket}/inputs")
    for upload in uploads:
        upload_input(upload)
    named = with_uploads(recipe, uploads)
    require_visible(named)
    assert {key: source.uri.split("/")[0] for key, source in sources_of(named).items()} == {
        "data.train.0": "countdown:",
        "data.train.1": "s3:",
        "data.benchmarks.dev": "s3:",
    }
    assert named.data.train[1].verifier == "math"
    assert [problem.text for problem in read_source(named.data.benchmarks["dev"], "dev")] == ["dev?"]
    assert inspect_policy(named.base_policy)[:2] == inspect_policy(recipe.base_policy)[:2]
    fetch_folder(named.base_policy, tmp_path / "fetched", ("",))
    assert {p.name for p in (tmp_path / "fetched").iterdir()} == {
        p.name for p in (tmp_path / "policy").iterdir() if p.suffix != ".bin"
    }
    before = stored_version(named.base_policy), stored_version(named.data.train[1].uri)
    for upload in uploads:
        upload_input(upload)
    assert (stored_version(named.base_policy), stored_version(named.data.train[1].uri)) == before, "nothing moved"


def test_submit_uploads_and_sends_the_uris(kfp: FakeKfp, call: Call, local: Path, s3: TestServer) -> None:
    to = ["--upload-to", f"s3://{s3.bucket}/submitted"]
    dry = call("submit", *to, "--dry-run", recipe=local)
    assert dry.exit_code == 0 and f"would upload {local.parent / 'train.jsonl'} to s3://" in dry.output
    assert f"note: this shell uploads to {s3.endpoint}" in dry.output
    told = call("submit", *to, "--dry-run", "--set", "store.endpoint=http://store:8333", recipe=local)
    assert told.exit_code == 0 and "note:" not in told.output
    assert not kfp.writes() and not [*open_store(f"s3://{s3.bucket}/submitted").list()]
    done = call("submit", *to, recipe=local)
    assert done.exit_code == 0, done.output
    (run,) = kfp.runs.values()
    assert run.runtime_config.parameters["base_policy"].startswith(f"s3://{s3.bucket}/submitted/")
    assert str(local.parent) not in str(run.runtime_config.parameters)
    assert call("schedule", "--cron", "@daily", *to, recipe=local).exit_code == 0
    assert "nothing to do" in call("schedule", "--cron", "@daily", *to, recipe=local).output


# check


def test_check_refuses_for_a_cluster_alone(local: Path) -> None:
    here = CliRunner().invoke(main, ["check", "--recipe", str(local)])
    assert here.exit_code == 0 and "everything that could be checked is in order" in here.output
    there = CliRunner().invoke(main, ["check", "--recipe", str(local), "--cluster"])
    assert there.exit_code == 2 and "- data.train.1: " in there.output
    assert CliRunner().invoke(main, ["check", "--recipe", str(LAPTOP), "--cluster"]).exit_code == 0
