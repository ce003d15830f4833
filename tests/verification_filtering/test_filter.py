import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.shared.data.schema import PROBLEMS, TRAJECTORIES, earlier_expert_files, table_writer, write_table
from components.shared.errors import InputError
from components.shared.grading import GradingSettings
from components.shared.progress.checkpoints import NOWHERE, CheckpointSettings
from components.verification_filtering.filter import filter_trajectories
from components.verification_filtering.gates import GATES, Decisions
from components.verification_filtering.settings import FilterSettings

SOLUTIONS = ["1+2=3,3+3=6.", "2+1=3,3+3=6.", "1+3=4,4+2=6.", "3+1=4,4+2=6.", "2+3=5,5+1=6.", "1*2=2,2*3=6."]
WRONG = "1+2=3."


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    write_table(
        tmp_path / "problems" / "problems.parquet",
        PROBLEMS,
        (
            {
                "problem_id": p,
                "prompt": "Use 1 2 3 to make 6.",
                "answer": '{"numbers": [1, 2, 3], "target": 6}',
                "source": "train",
                "verifier": "countdown",
                "difficulty": None,
            }
            for p in ("a", "b", "c")
        ),
    )

    def filter_rows(
        rows: list[dict[str, Any]],
        name: str = "out",
        earlier: Path | None = None,
        checkpointing: CheckpointSettings = NOWHERE,
        **changes: Any,
    ) -> dict[str, Any]:
        write_table(tmp_path / "trajectories" / "trajectories.parquet", TRAJECTORIES, rows)
        out = tmp_path / name
        figures = filter_trajectories(
            tmp_path / "trajectories",
            tmp_path / "problems",
            FilterSettings.check(changes, "filter"),
            GradingSettings(),
            experts_out=out / "experts",
            dropped_out=out / "dropped",
            report_out=out / "report.json",
            page_out=out / "page.html",
            earlier_experts=earlier,
            checkpointing=checkpointing,
        )
        return {
            "figures": figures,
            "report": json.loads((out / "report.json").read_text()),
            "experts": pq.read_table(out / "experts" / "experts.parquet").to_pylist(),
            "dropped": pq.read_table(out / "dropped" / "dropped.parquet").to_pylist(),
        }

    return filter_rows


@pytest.fixture
def trajectory(rollout: Any) -> Any:
    def make(problem_id: str, completion: str, success_rate: float | None = 0.5, **changes: Any) -> dict[str, Any]:
        extra = {"verdict": True, "verdict_reason": None, "success_rate": success_rate, "dropped_because": None}
        return rollout(problem_id, completion=completion, **changes) | extra

    return make


def test_each_gate_leaves_out_what_it_should(run: Any, trajectory: Any) -> None:
    rows = [
        trajectory("a", SOLUTIONS[0]),
        trajectory("a", WRONG),  # recorded as right: it is graded again
        trajectory("a", SOLUTIONS[1], finish_reason="length"),
        trajectory("b", SOLUTIONS[0], success_rate=0.9),
        trajectory("a", SOLUTIONS[0].replace(",", ", "), step=3),
        trajectory("a", SOLUTIONS[0], step=3),
        trajectory("c", SOLUTIONS[0], success_rate=None),
    ]
    got = run(rows)
    assert [row["completion"] for row in got["experts"]] == [SOLUTIONS[0], SOLUTIONS[0].replace(",", ", ")]
    assert [row["dropped_because"] for row in got["dropped"]] == [
        "not_correct", "not_finished", "not_hard", "duplicate", "not_scorable",
    ]  # fmt: skip
    assert [row["verdict"] for row in got["dropped"]] == [False, False, True, True, True]  # a cut one is wrong
    assert [row["verdict_reason"] for row in got["experts"]] == ["equal: by the verifier countdown"] * 2
    assert [row["verdict_reason"] for row in got["dropped"][:2]] == [
        "different: by the verifier countdown",
        "truncated",
    ]
    grading = got["report"]["grading"]
    assert grading["truncated"] == 1 and grading["hedged"] == grading["timed_out"] == grading["not_scorable"] == 0
    assert sum(grading["reasons"].values()) == len(rows) and grading["answers_per_second"] > 0
    assert [gate["gate"] for gate in got["report"]["funnel"]] == list(GATES)
    assert got["report"]["funnel"][-1]["left"] == got["report"]["experts"] == 2


def test_a_problem_at_the_threshold_is_hard(run: Any, trajectory: Any) -> None:
    rows = [trajectory("a", SOLUTIONS[0], success_rate=0.8), trajectory("b", SOLUTIONS[0], success_rate=0.81)]
    assert [row["problem_id"] for row in run(rows, max_success_rate=0.8)["experts"]] == ["a"]


def test_the_cap_keeps_early_and_different_solutions(run: Any, trajectory: Any) -> None:
    rows = [trajectory("a", text, step=9 - i) for i, text in enumerate(SOLUTIONS)]
    got = run(rows, max_per_problem=2)
    assert len(got["experts"]) == 2
    assert {row["step"] for row in got["experts"]} >= {4}  # the earliest
    assert Counter(row["dropped_because"] for row in got["dropped"]) == {"over_cap": 4}


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([*SOLUTIONS, WRONG]), st.integers(0, 3)),
        min_size=1,
        max_size=25,
    ),
    st.integers(1, 3),
)
def test_laws(run: Any, trajectory: Any, drawn: list[tuple[str, str, int]], cap: int) -> None:
    rows = [trajectory(p, text, step=step, sample_index=i) for i, (p, text, step) in enumerate(drawn)]
    if all(text == WRONG for _, text, _ in drawn):
        with pytest.raises(InputError, match="not_correct"):
            run(rows, max_per_problem=cap)
        return
    got = run(rows, max_per_problem=cap)
    experts, dropped = got["experts"], got["dropped"]
    # Nothing is lost or made: each trajectory is in one table, as it was but for what filtering says of it.
    assert sorted(r["sample_index"] for r in experts + dropped) == list(range(len(rows)))
    said = ("verdict", "verdict_reason", "dropped_because")
    for row in experts + dropped:
        original = rows[row["sample_index"]]
        assert {k: v for k, v in row.items() if k not in said} == {k: v for k, v in original.items() if k not in said}
    assert all(row["dropped_because"] is None and row["verdict"] for row in experts)
    assert all(row["dropped_because"] in GATES for row in dropped)
    assert len({(r["problem_id"], r["completion"]) for r in experts}) == len(experts)
    assert max(Counter(r["problem_id"] for r in experts).values()) <= cap
    # Filtering the experts again keeps them all.
    assert len(run(experts, max_per_problem=cap)["experts"]) == len(experts)


@pytest.mark.parametrize(
    ("completion", "changes", "gate", "remedy"),
    [
        (WRONG, {}, "not_correct", "choose easier problems"),
        (SOLUTIONS[0], {"finish_reason": "length"}, "not_finished", "raise rl.max_completion_tokens"),
        (SOLUTIONS[0], {"success_rate": 0.95}, "not_hard", r"raise filter.max_success_rate \(now 0.8\)"),
    ],
)
def test_an_empty_set_names_the_gate_that_left_out_most(
    run: Any, trajectory: Any, completion: str, changes: dict[str, Any], gate: str, remedy: str
) -> None:
    with pytest.raises(InputError, match=f"gate '{gate}' dropped the most; .*{remedy}"):
        run([trajectory("a", completion, **changes), trajectory("b", completion, **changes), trajectory("a", WRONG)])


def test_a_trajectory_of_an_unknown_problem_is_an_error(run: Any, trajectory: Any) -> None:
    with pytest.raises(InputError, match="problem z is not among the training problems"):
        run([trajectory("z", SOLUTIONS[0])])


def test_the_filter_can_be_taken_apart_to_see_what_each_gate_is_worth(run: Any, trajectory: Any) -> None:
    rows = [trajectory("a", text, 0.9) for text in SOLUTIONS] + [trajectory("b", SOLUTIONS[0], 0.25) for _ in range(3)]
    assert run(rows)["figures"]["experts"] == 1  # a is too easy, b's are the same
    assert run(rows, max_success_rate=1.0, max_per_problem=2)["figures"]["experts"] == 3
    assert run(rows, max_success_rate=1.0, max_per_problem=0)["figures"]["experts"] == 7, "no limit"
    everything = run(rows, max_success_rate=1.0, max_per_problem=0, drop_duplicates=False)
    assert everything["figures"]["experts"] == 9
    assert everything["report"]["experts_by_success_rate"] == [0, 0, 3, 0, 0, 0, 0, 0, 0, 6]


def test_earlier_experts_are_handed_on_from_iteration_to_iteration(run: Any, trajectory: Any, tmp_path: Path) -> None:
    def rows(iteration: int) -> list[dict[str, Any]]:
        return [trajectory("a", text, iteration=iteration) for text in SOLUTIONS[:iteration]]

    run(rows(1), "first")
    second = run(rows(2), "second", tmp_path / "first" / "experts")
    third = run(rows(3), "third", tmp_path / "second" / "experts")
    assert second["figures"]["earlier_experts"] == 1 and third["report"]["earlier_experts"] == 3
    assert len(third["experts"]) == 3 and {row["iteration"] for row in third["experts"]} == {3}
    files = earlier_expert_files(tmp_path / "third" / "experts")
    assert [file.name for file in files] == ["iteration-1.parquet", "iteration-2.parquet"]
    assert [{row["iteration"] for row in pq.read_table(file).to_pylist()} for file in files] == [{1}, {2}]


def test_an_iteration_without_new_experts_hands_the_earlier_ones_on(run: Any, trajectory: Any, tmp_path: Path) -> None:
    run([trajectory("a", SOLUTIONS[0], iteration=1)], "first")
    nothing = [trajectory("a", WRONG, iteration=2)]
    second = run(nothing, "second", tmp_path / "first" / "experts")
    assert second["experts"] == [] and second["figures"] | {"experts": 0, "earlier_experts": 1} == second["figures"]
    third = run([trajectory("a", SOLUTIONS[2], iteration=3)], "third", tmp_path / "second" / "experts")
    assert third["figures"]["experts"] == 1 and third["figures"]["earlier_experts"] == 1
    assert [file.name for file in earlier_expert_files(tmp_path / "third" / "experts")] == ["iteration-1.parquet"]
    write_table(tmp_path / "none" / "experts.parquet", TRAJECTORIES, [])
    with pytest.raises(InputError, match="no trajectory is left for RFT"):
        run(nothing, "fourth", tmp_path / "none")


def test_a_filter_that_had_finished_hands_its_outputs_over(
    run: Any, trajectory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [trajectory("a", text) for text in SOLUTIONS]
    progress = CheckpointSettings(uri=str(tmp_path / "progress"))
    first = run(rows, checkpointing=progress)
    monkeypatch.setattr(
        "components.verification_filtering.grade.TrajectoryGrading._grade", None
    )  # verdicts come from the first
    assert run(rows, "again", checkpointing=progress) == first
    assert run(rows, "other", checkpointing=progress, max_per_problem=1)["figures"]["experts"] == 1
    monkeypatch.setattr("components.verification_filtering.gates._gate", None)
    assert run(rows, "third", checkpointing=progress) == first


@pytest.mark.parametrize("rows_per_group", [1, 7, 40])
def test_row_groups_do_not_matter(
    run: Any, trajectory: Any, tmp_path: Path, rows_per_group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those of the table nor the batches that are graded."""
    rows = [
        trajectory("abc"[i % 3], [*SOLUTIONS, WRONG][i % 7] + " " * (i % 2), step=i // 5, sample_index=i)
        for i in range(40)
    ]
    once = run(rows, max_per_problem=2)
    monkeypatch.setattr("components.verification_filtering.grade._BATCH", 3)
    write = partial(table_writer, rows_per_group=rows_per_group)
    monkeypatch.setattr("components.shared.data.schema.table_writer", write)
    again = run(rows, name="again", max_per_problem=2)
    groups = pq.ParquetFile(tmp_path / "trajectories" / "trajectories.parquet").metadata.num_row_groups
    assert groups == -(-40 // rows_per_group)
    assert (again["experts"], again["dropped"]) == (once["experts"], once["dropped"])
    assert again["report"]["funnel"] == once["report"]["funnel"]


def test_memory_per_trajectory_is_small(trajectory: Any, tmp_path: Path) -> None:
    """Less than the sketch of each, 384 bytes, at the peak; libraries aside."""
    peaks = []
    for count in (2_500, 5_000):  # both more than a batch
        folder = tmp_path / str(count)
        rows = [trajectory(f"p{i % 50}", f"{i} + 1 = {i + 1} and so on " * 5, step=i // 50) for i in range(count)]
        write_table(folder / "trajectories.parquet", TRAJECTORIES, rows)
        tracemalloc.start()
        decisions = Decisions(FilterSettings())
        for row in rows:
            decisions.add(row, True, "equal")
        decisions.drop_duplicates()
        decisions.apply_cap(folder, folder)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert decisions.counts()["experts"] == 50 * 8
    per_trajectory = (peaks[1] - peaks[0]) / 2_500
    assert per_trajectory < 384, per_trajectory
