"""Publishing to a real S3 server, and reading from there with other people's tools."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.publishing.publish import _COLUMNS, publish
from components.shared.data.schema import TRAJECTORIES, write_table
from components.shared.object_store import Store, open_store
from components.shared.policy import Policy
from components.shared.policy.checks import check_policy
from components.shared.stage import write_json


@pytest.fixture
def run(tmp_path: Path, tiny_policy: Path, rollout: Callable[..., dict[str, Any]]) -> Callable[[str, int], None]:
    def go(uri: str, iteration: int) -> None:
        extra = {"verdict": True, "success_rate": 0.5, "dropped_because": None, "iteration": iteration}
        rows = [{**rollout(f"p{i}"), **extra, "sample_index": i} for i in range(10)]
        write_table(tmp_path / "t" / "trajectories.parquet", TRAJECTORIES, rows)
        write_table(tmp_path / "e" / "experts.parquet", TRAJECTORIES, rows[:3])
        policies = [{"name": f"rloop-{iteration}"}]
        write_json(
            tmp_path / "r" / "summary.json",
            {"chosen_policy": f"rloop-{iteration}", "policies": policies, "iterations": [{}] * iteration},
        )
        (tmp_path / "page.html").write_text("<p>report</p>")
        publish(
            uri,
            "run-1",
            iteration=iteration,
            trajectories=tmp_path / "t",
            experts=tmp_path / "e",
            best_policy=tiny_policy,
            results=tmp_path / "r",
            page=tmp_path / "page.html",
            manifest_out=tmp_path / "manifest.json",
        )

    return go


def test_what_is_published_loads_straight_from_s3(
    run: Callable[[str, int], None], s3: Any, tiny_policy: Path, tmp_path: Path
) -> None:
    from datasets import load_dataset

    uri = f"s3://{s3.bucket}/published"
    for iteration in (1, 2, 2):  # a stage may be run again
        run(uri, iteration)
    options = {"key": s3.access_key, "secret": s3.secret_key, "client_kwargs": {"endpoint_url": s3.endpoint}}
    loaded = load_dataset(
        "parquet",
        data_files=f"{uri}/run-1/trajectories/iteration=*/*.parquet",
        split="train",
        storage_options=options,
        cache_dir=str(tmp_path / "cache"),
    )
    assert sorted(loaded["iteration"]) == [1] * 10 + [2] * 10
    assert set(TRAJECTORIES.names) <= set(loaded.column_names)

    store = open_store(f"{uri}/run-1")
    manifest = json.loads(store.read_bytes("manifest.json") or b"")
    assert [(i["iteration"], i["trajectories"], i["experts"]) for i in manifest["iterations"]] == [
        (1, 10, 3),
        (2, 10, 3),
    ]
    assert manifest["policy"] == {"path": "policy", "name": "rloop-2", "policy_id": Policy(tiny_policy).id}
    store.download_folder("policy", tmp_path / "policy")
    check_policy(tmp_path / "policy", "published")
    card = (store.read_bytes("trajectories/README.md") or b"").decode()
    assert "| `completion_ids` | list<int32> |" in card and "2 iteration(s)" in card
    assert store.read_bytes("report.html") == b"<p>report</p>"


def test_a_manifest_does_not_stand_for_what_is_being_replaced(
    run: Callable[[str, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "published")

    def manifest() -> Any:
        return json.loads((tmp_path / "published" / "run-1" / "manifest.json").read_text())

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    run(uri, 1)
    assert manifest()["complete"] is True
    with monkeypatch.context() as patched:
        patched.setattr(Store, "upload_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            run(uri, 2)
    assert manifest()["complete"] is False
    run(uri, 2)
    assert manifest()["complete"] is True and [i["iteration"] for i in manifest()["iterations"]] == [1, 2]


def test_every_column_is_described() -> None:
    assert set(_COLUMNS) == set(TRAJECTORIES.names)
