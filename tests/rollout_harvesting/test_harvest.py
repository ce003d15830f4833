import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.rollout_harvesting.harvest import harvest
from components.shared.data.schema import ROLLOUT_STEPS, TRAJECTORIES
from components.shared.errors import InputError
from components.shared.stage import write_json


@pytest.fixture
def run(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    def gather() -> dict[str, Any]:
        out = tmp_path / "out"
        figures = harvest(
            tmp_path / "rollouts",
            trajectories_out=out / "trajectories",
            success_rates_out=out / "rates",
            report_out=out / "report.json",
            page_out=out / "page.html",
        )
        return {
            "figures": figures,
            "report": json.loads((out / "report.json").read_text()),
            "table": pq.read_table(out / "trajectories" / "trajectories.parquet"),
            "rates": pq.read_table(out / "rates" / "success_rates.parquet").to_pylist(),
        }

    return gather


def test_all_steps_and_ranks_in_order_with_their_success_rates(
    tmp_path: Path, run: Any, rollout: Any, write_shard: Any
) -> None:
    folder = tmp_path / "rollouts"
    write_shard(folder, [rollout("a", 1, reward=1.0), rollout("a", 1, reward=0.0, sample_index=1)])
    write_shard(folder, [rollout("a", 0, reward=0.0), rollout("b", 0, reward=1.0, sample_index=1)])
    write_shard(folder, [rollout("a", 0, rank=1, reward=None), rollout("c", 0, rank=1, reward=0.0, sample_index=1)])
    got = run()
    assert got["table"].schema.equals(TRAJECTORIES)
    rows = got["table"].to_pylist()
    assert [(r["step"], r["rank"], r["problem_id"]) for r in rows] == [
        (0, 0, "a"), (0, 0, "b"), (0, 1, "a"), (0, 1, "c"), (1, 0, "a"), (1, 0, "a"),
    ]  # fmt: skip
    assert [r["verdict"] for r in rows] == [False, True, None, False, True, False]
    rates = {r["problem_id"]: r["success_rate"] for r in rows}
    assert rates == {"a": pytest.approx(1 / 3), "b": 1.0, "c": 0.0}
    assert all(r["dropped_because"] is None for r in rows)
    assert [r for r in got["rates"] if r["problem_id"] == "a"] == [
        {"problem_id": "a", "step": 0, "samples": 1, "correct": 0, "success_rate_so_far": 0.0},
        {"problem_id": "a", "step": 1, "samples": 2, "correct": 1, "success_rate_so_far": pytest.approx(1 / 3)},
    ]
    assert got["figures"] == {
        "trajectories": 6, "correct": 2, "problems": 3, "never_solved": 1, "always_solved": 1, "shards_set_aside": 0,
    }  # fmt: skip
    assert got["report"]["not_scorable"] == 1 and got["report"]["missing_steps"] == []


def test_a_step_recorded_twice_counts_once_the_later_one(
    tmp_path: Path, run: Any, rollout: Any, write_shard: Any
) -> None:
    folder = tmp_path / "rollouts"
    write_shard(folder, [rollout(completion="old", sampled_at=datetime(2026, 1, 1, tzinfo=UTC))], suffix="-again")
    write_shard(folder, [rollout(completion="new", sampled_at=datetime(2026, 1, 2, tzinfo=UTC))])
    got = run()
    assert got["table"]["completion"].to_pylist() == ["new"]
    assert got["figures"]["shards_set_aside"] == 1
    assert "step 0, rank 0 was sampled again" in got["report"]["duplicate_shards"][0]


def test_half_written_shards_are_set_aside_and_counted(
    tmp_path: Path, run: Any, rollout: Any, write_shard: Any
) -> None:
    folder = tmp_path / "rollouts"
    whole = write_shard(folder, [rollout(step=0)])
    (folder / "step-000001-rank-0000.parquet").write_bytes(whole.read_bytes()[:-20])
    (folder / ".step-000002-rank-0000.parquet.77.tmp").write_bytes(b"PAR1")
    write_shard(folder, [rollout(step=3)])
    got = run()
    assert got["table"]["step"].to_pylist() == [0, 3]
    assert len(got["report"]["incomplete_shards"]) == 2
    assert got["report"]["missing_steps"] == [1, 2]


def test_a_later_segment_does_not_miss_the_steps_before_it(
    tmp_path: Path, run: Any, rollout: Any, write_shard: Any
) -> None:
    folder = tmp_path / "rollouts"
    for step in (40, 41, 43):
        write_shard(folder, [rollout(step=step)])
    assert run()["report"]["missing_steps"] == [42]
    write_json(folder / ROLLOUT_STEPS, {"first": 39, "end": 45})
    assert run()["report"]["missing_steps"] == [39, 42, 44], "whoever made them knows which there should be"
    assert pq.read_table(folder).num_rows == 3


def test_no_whole_shard_is_an_error(tmp_path: Path, run: Any) -> None:
    (tmp_path / "rollouts").mkdir()
    with pytest.raises(InputError, match="has no complete rollout shard"):
        run()


def test_a_foreign_table_is_an_error(tmp_path: Path, run: Any) -> None:
    (tmp_path / "rollouts").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "rollouts" / "step-000000-rank-0000.parquet")
    with pytest.raises(InputError, match="not a rollout shard"):
        run()
