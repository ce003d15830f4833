import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from components.evaluation.curve import evaluate_curve
from components.evaluation.evaluate import _result_line, evaluate
from components.evaluation.settings import EvaluationSettings
from components.shared.data import countdown
from components.shared.data.schema import BENCHMARK_ORDER, PROBLEMS, SAMPLES, write_table
from components.shared.errors import InputError
from components.shared.grading import GradingSettings
from components.shared.policy import Policy
from components.shared.policy.snapshots import save_weights, snapshot_name
from components.shared.reporting.pass_at_k import pass_at_k
from components.shared.stage import write_json


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"samples": 8, "pass_at": [1, 32]},
            "asks for pass@32, but eval.samples is 8: pass@k needs at least k samples",
        ),
        ({"pass_at": [0]}, "each k must be at least 1"),
        ({"samples": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_work(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EvaluationSettings.check(values, "eval")


def test_pass_at_one_is_always_there() -> None:
    assert EvaluationSettings.check({"samples": 8, "pass_at": [8, 4, 4]}, "eval").pass_at == [1, 4, 8]


def test_the_former_key_of_the_tensor_parallel_size_is_accepted() -> None:
    settings = EvaluationSettings.check({"tensor_parallel_size": 2, "parallel": {"replicas": 4}}, "eval")
    assert (settings.parallel.replicas, settings.parallel.tensor_parallel_size) == (4, 2)


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    folder = tmp_path / "benchmarks"
    for name, seed in (("zeta", 1), ("alpha", 2)):
        rows = [
            {
                "problem_id": f"{name}{i}",
                "prompt": problem.text,
                "answer": problem.answer,
                "source": name,
                "verifier": "countdown",
                "difficulty": None,
            }
            for i, problem in enumerate(countdown.generate("dev", 3, 1, 9, 6, seed))
        ]
        write_table(folder / f"{name}.parquet", PROBLEMS, rows)
    write_json(folder / BENCHMARK_ORDER, ["zeta", "alpha"])
    return folder


def run(policy: Path, folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    values = {"samples": 8, "pass_at": [1, 4, 8], "max_completion_tokens": 30}
    evaluate(
        policy,
        folder,
        EvaluationSettings.check(values | changes, "eval"),
        GradingSettings(),
        name="base",
        kind="base",
        iteration=0,
        seed=1,
        samples_out=out / "samples",
        evaluation_out=out / "evaluation.json",
        page_out=out / "page.html",
    )
    evaluation: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    return evaluation


@pytest.mark.slow
def test_the_figures_follow_from_the_samples(tiny_policy: Path, benchmarks: Path, tmp_path: Path) -> None:
    evaluation = run(tiny_policy, benchmarks, tmp_path / "out")
    assert [e["benchmark"] for e in evaluation["evaluations"]] == ["zeta", "alpha"]  # the recipe's order
    table = pq.read_table(tmp_path / "out" / "samples" / "samples.parquet")
    assert table.schema.equals(SAMPLES)
    for e in evaluation["evaluations"]:
        rows = [row for row in table.to_pylist() if row["benchmark"] == e["benchmark"]]
        assert len(rows) == 6 * 8 and e["problems"] == 6 and e["n"] == 8
        correct: dict[str, int] = {}
        distinct: dict[str, set[str]] = {}
        for row in rows:
            correct[row["problem_id"]] = correct.get(row["problem_id"], 0) + row["correct"]
            if row["correct"]:
                distinct.setdefault(row["problem_id"], set()).add(row["completion"])
        assert e["avg"] == pytest.approx(sum(correct.values()) / 48)
        for k in (1, 4, 8):
            assert e["pass_at_k"][str(k)] == pytest.approx(sum(pass_at_k(8, c, k) for c in correct.values()) / 6)
        assert e["avg_interval"][0] <= e["avg"] <= e["avg_interval"][1]
        assert e["distinct_correct"] == pytest.approx(sum(map(len, distinct.values())) / 6)
        assert e["truncation_rate"] == sum(row["finish_reason"] == "length" for row in rows) / 48
        assert e["mean_tokens"] == pytest.approx(sum(row["tokens"] for row in rows) / 48)


@pytest.mark.slow
def test_a_cut_completion_is_wrong_and_counted(tiny_policy: Path, benchmarks: Path, tmp_path: Path) -> None:
    evaluation = run(tiny_policy, benchmarks, tmp_path / "out", max_completion_tokens=2)
    assert all(e["truncation_rate"] == 1.0 and e["avg"] == 0.0 for e in evaluation["evaluations"])
    assert evaluation["reasons"] == {"truncated": 2 * 6 * 8}
    assert '<td class="text">truncated</td><td>96</td>' in (tmp_path / "out" / "page.html").read_text()


@pytest.mark.slow
def test_a_completion_longer_than_the_context_is_an_error(tiny_policy: Path, benchmarks: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than the model's context of 2048"):
        run(tiny_policy, benchmarks, tmp_path / "out", max_completion_tokens=2048)


@pytest.mark.vllm
def test_with_vllm_the_figures_are_as_with_transformers_and_it_says_so(
    tiny_policy: Path, benchmarks: Path, tmp_path: Path
) -> None:
    values = {"samples": 64, "pass_at": [64], "sequences_per_batch": 100}
    ours, theirs = (
        run(tiny_policy, benchmarks, tmp_path / engine, engine=engine, **values) for engine in ("vllm", "transformers")
    )
    assert (ours["engine"], theirs["engine"]) == ("vllm", "transformers")
    for a, b in zip(ours["evaluations"], theirs["evaluations"], strict=True):
        assert a["benchmark"] == b["benchmark"] and a["truncation_rate"] == b["truncation_rate"] == 0.0
        # 384 samples each: a difference of 4 standard deviations, at most 0.036, is a false alarm once in 15,000.
        assert abs(a["avg"] - b["avg"]) < 4 * 0.036
    again = run(tiny_policy, benchmarks, tmp_path / "again", engine="vllm", **values)
    assert again == ours


def test_the_result_names_n_and_k_of_each_benchmark_where_they_differ() -> None:
    dev, test = (
        {"benchmark": name, "n": n, "avg": 0.25, "pass_at_k": {"1": 0.25, str(n): 0.5}}
        for name, n in (("dev", 8), ("test", 8))
    )
    assert _result_line([dev, test]) == "avg@8/pass@8: dev 0.250/0.500, test 0.250/0.500"
    more = {**test, "n": 16, "pass_at_k": {"1": 0.25, "16": 0.5}}
    assert _result_line([dev, more]) == "dev avg@8/pass@8 0.250/0.500, test avg@16/pass@16 0.250/0.500"


def test_a_benchmark_may_have_settings_of_its_own() -> None:
    values = {
        "samples": 8,
        "pass_at": [8],
        "temperature": 0.5,
        "benchmarks": {"aime": {"samples": 64, "pass_at": [32]}},
    }
    settings = EvaluationSettings.check(values, "eval")
    assert (settings.of("math").samples, settings.of("math").pass_at) == (8, [1, 8])
    assert (settings.of("aime").samples, settings.of("aime").pass_at) == (64, [1, 32])
    assert settings.of("aime").temperature == 0.5
    with pytest.raises(InputError, match=r"eval.benchmarks.aime: .*pass@64, but eval.samples is 8"):
        EvaluationSettings.check({"samples": 8, "pass_at": [8], "benchmarks": {"aime": {"pass_at": [64]}}}, "eval")
    curve = EvaluationSettings.check(values | {"curve_samples": 4}, "eval").of_curve("aime")
    assert (curve.samples, curve.pass_at) == (4, [1, 4])


@pytest.mark.slow
def test_each_benchmark_is_sampled_by_its_own_settings(tiny_policy: Path, benchmarks: Path, tmp_path: Path) -> None:
    own = {"alpha": {"samples": 4, "pass_at": [2], "max_completion_tokens": 2}}
    evaluation = run(tiny_policy, benchmarks, tmp_path / "out", benchmarks=own)
    zeta, alpha = evaluation["evaluations"]
    assert (zeta["n"], alpha["n"]) == (8, 4) and list(alpha["pass_at_k"]) == ["1", "2"]
    assert alpha["truncation_rate"] == 1.0 > zeta["truncation_rate"]
    assert alpha["by_problem"] == {"samples": [4] * 6, "correct": [0] * 6}
    assert sum(zeta["by_problem"]["correct"]) / 48 == pytest.approx(zeta["avg"])


@pytest.mark.parametrize(
    "engine", [pytest.param("transformers", marks=pytest.mark.slow), pytest.param("vllm", marks=pytest.mark.vllm)]
)
def test_intermediate_checkpoints_are_measured_as_the_policies_they_are(
    tiny_policy: Path, benchmarks: Path, tmp_path: Path, engine: str
) -> None:
    import torch

    model = Policy(tiny_policy).load_model()
    for step in (2, 4):
        with torch.no_grad():
            next(model.parameters()).mul_(0.98)
        save_weights(model, tmp_path / "snapshots" / snapshot_name(step))
    settings = {"samples": 8, "pass_at": [8], "max_completion_tokens": 30, "curve_samples": 8, "curve_problems": 5}
    settings |= {"engine": engine}

    def curve(with_initial: bool, **changes: Any) -> list[Any]:
        evaluate_curve(
            tiny_policy,
            tmp_path / "snapshots",
            benchmarks,
            EvaluationSettings.check(settings | changes, "eval"),
            GradingSettings(),
            kind="explored",
            iteration=1,
            seed=1,
            with_initial=with_initial,
            curve_out=tmp_path / "curve.json",
        )
        points: list[Any] = json.loads((tmp_path / "curve.json").read_text())["points"]
        return points

    points = curve(True, curve_benchmarks=["alpha", "zeta"])
    assert [point["step"] for point in points] == [0, 2, 4]
    assert points[0]["policy_id"] == Policy(tiny_policy).id and len({point["policy_id"] for point in points}) == 3
    assert [e["benchmark"] for e in points[0]["evaluations"]] == ["alpha", "zeta"]
    assert len(points[0]["evaluations"][0]["by_problem"]["correct"]) == 5
    without_initial = [{**point, "evaluations": point["evaluations"][1:]} for point in points[1:]]
    assert curve(False, parallel={"replicas": 2}) == without_initial
    with pytest.raises(InputError, match="'alpah' is not a benchmark. Did you mean 'alpha'"):
        curve(True, curve_benchmarks=["alpah"])
