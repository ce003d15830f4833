import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from components.rl_exploration import recorder as recorder_module
from components.rl_exploration.recorder import RolloutRecorder
from components.rl_exploration.settings import ExplorationSettings
from components.shared.data.schema import ROLLOUTS
from components.shared.errors import InputError
from components.shared.grading import Grader
from components.shared.policy import Policy

ANSWER = '{"numbers": [3, 7, 2], "target": 13}'
RIGHT, WRONG = "3*2=6,6+7=13.", "3*2=6,6+7=14."
EOS = 1


@pytest.fixture
def make(tmp_path: Path, grader: Grader, tiny_policy: Path) -> Any:
    policy = Policy(tiny_policy)

    def build(rank: int = 0, patience: int = 3, updates_per_step: int = 1, overlong: int = 0) -> RolloutRecorder:
        values = {"steps": 100, "patience": patience, "prompts_per_step": updates_per_step, "prompts_per_update": 1}
        values |= {"max_completion_tokens": 40, "overlong_tokens": overlong}
        return RolloutRecorder(
            tmp_path,
            grader,
            policy,
            ExplorationSettings.check(values, "rl"),
            iteration=2,
            rank=rank,
        )

    return build


def call(
    recorder: RolloutRecorder,
    texts: list[str],
    global_step: int = 0,
    ids: list[list[int]] | None = None,
    **changes: Any,
) -> list[float | None]:
    n = len(texts)
    arguments: dict[str, Any] = {
        "prompts": [[{"role": "user", "content": "Use 3 7 2 to make 13."}]] * n,
        "completions": [[{"role": "assistant", "content": text}] for text in texts],
        "completion_ids": ids or [[5, 6, EOS]] * n,
        "problem_id": ["p1"] * n,
        "question": ["Use 3 7 2 to make 13."] * n,
        "answer": [ANSWER] * n,
        "verifier": ["countdown"] * n,
        "trainer_state": SimpleNamespace(global_step=global_step),
        "log_extra": None,
        "log_metric": lambda name, value: None,
    }
    return recorder(**(arguments | changes))


def test_rewards_and_a_whole_shard_with_every_column(make: Any, tmp_path: Path, tiny_policy: Path) -> None:
    assert call(make(), [RIGHT, WRONG, RIGHT], global_step=7, ids=[[5, EOS], [5, EOS], [5, 6]]) == [1.0, 0.0, 0.0]
    table = pq.read_table(tmp_path / "step-000007-rank-0000.parquet")
    assert table.schema.equals(ROLLOUTS)
    rows = table.to_pylist()
    assert [row["finish_reason"] for row in rows] == ["stop", "stop", "length"]  # cut, so no answer, though right
    assert [row["completion_ids"] for row in rows] == [[5, EOS], [5, EOS], [5, 6]]
    assert [row["sample_index"] for row in rows] == [0, 1, 2]
    same = {(row["iteration"], row["step"], row["rank"], row["policy_id"]) for row in rows}
    assert same == {(2, 7, 0, Policy(tiny_policy).id)}
    assert len({row["group_id"] for row in rows}) == 1


def test_what_cannot_be_scored_is_recorded_as_such(make: Any, tmp_path: Path) -> None:
    assert call(make(), ["\\boxed{1}"], verifier=["math"], answer=["}"]) == [None]
    assert pq.read_table(tmp_path / "step-000000-rank-0000.parquet")["reward"].to_pylist() == [None]


def test_a_step_with_several_updates_is_one_step(make: Any, tmp_path: Path) -> None:
    recorder = make(updates_per_step=4)
    for global_step in (0, 4, 8):
        call(recorder, [RIGHT, WRONG], global_step=global_step)
    assert sorted(p.name for p in tmp_path.glob("*.parquet")) == [f"step-00000{i}-rank-0000.parquet" for i in range(3)]


def test_ranks_write_side_by_side(make: Any, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        recorder = make(rank=rank)
        for step in range(5):
            call(recorder, [RIGHT, WRONG], global_step=step)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = [
        (row["step"], row["rank"], row["sample_index"])
        for file in tmp_path.glob("*.parquet")
        for row in pq.read_table(file).to_pylist()
    ]
    assert len(keys) == len(set(keys)) == 4 * 5 * 2


def test_a_write_that_breaks_off_leaves_earlier_shards_and_no_half_one(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = make()
    call(recorder, [RIGHT, WRONG], global_step=0)

    def rows_that_break(path: Path, schema: Any, rows: Any) -> int:
        def broken() -> Any:
            yield next(iter(rows))
            raise OSError(28, "No space left on device")

        return write_table(path, schema, broken())

    write_table = recorder_module.write_table
    monkeypatch.setattr(recorder_module, "write_table", rows_that_break)
    with pytest.raises(OSError, match="No space left"):
        call(recorder, [RIGHT, WRONG], global_step=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000-rank-0000.parquet"]


@pytest.mark.parametrize(
    ("texts", "ids", "message"),
    [
        ([WRONG, WRONG], None, "same reward .*all wrong.*choose easier problems"),
        ([RIGHT, RIGHT], None, "same reward .*all right.*choose harder problems"),
        ([WRONG, WRONG], [[5, 6], [5, 6]], "every completion was truncated at 40 tokens"),
    ],
)
def test_nothing_to_learn_from_stops_with_an_explanation(
    make: Any, texts: list[str], ids: list[list[int]] | None, message: str
) -> None:
    recorder = make(patience=3)
    call(recorder, texts, 0, ids)
    call(recorder, texts, 1, ids)
    with pytest.raises(InputError, match=message):
        call(recorder, texts, 2, ids)


def test_one_useful_step_starts_the_count_again(make: Any) -> None:
    recorder = make(patience=2)
    for step, texts in enumerate([[WRONG, WRONG], [RIGHT, WRONG], [WRONG, WRONG], [RIGHT, WRONG], [RIGHT, RIGHT]]):
        call(recorder, texts, step)
    assert recorder.recorded == 10 and recorder.correct == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"group_size": 1}, "rl.group_size.*greater than or equal to 2"),
        ({"prompts_per_step": 16, "prompts_per_update": 5}, "must be a multiple of rl.prompts_per_update"),
        (
            {"prompts_per_step": 2, "group_size": 4, "micro_batch_size": 3},
            "must divide a process's share of an update, 8 completions",
        ),
    ],
)
def test_settings_that_cannot_work(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExplorationSettings.check({"steps": 1} | values, "rl")


def test_long_completions_are_worth_less_to_trl_and_recorded_as_what_they_are(make: Any, tmp_path: Path) -> None:
    recorder, logged = make(overlong=20), {}
    lengths = (20, 21, 30, 40)
    ids = [[5] * (n - 1) + [EOS] for n in lengths]
    rewards = call(recorder, [RIGHT, RIGHT, WRONG, RIGHT], ids=ids, log_metric=logged.__setitem__)
    assert rewards == pytest.approx([1.0, 0.95, -0.5, 0.0])
    (shard,) = tmp_path.glob("*.parquet")
    assert pq.read_table(shard)["reward"].to_pylist() == [1.0, 1.0, 0.0, 1.0]
    assert logged == {"share_correct": 0.75}
    with pytest.raises(InputError, match="must be at most rl.max_completion_tokens"):
        ExplorationSettings.check({"steps": 1, "max_completion_tokens": 10, "overlong_tokens": 11}, "rl")
