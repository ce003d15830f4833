import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from pipeline import main

ROWS: list[dict[str, Any]] = [
    {"id": "half", "gold": "1/2", "prediction": "so \\boxed{0.5}", "expected": True},
    {"id": "three", "gold": 3, "prediction": "\\boxed{4}", "expected": True},
    {"id": "list", "gold": ["a", "b"], "prediction": "\\boxed{b}", "expected": True},
    {"id": "prose", "gold": "", "prediction": "\\boxed{4}", "expected": None},
    {"id": "cut", "gold": "4", "prediction": "\\boxed{4}", "finish_reason": "length", "expected": False},
    {"id": "exact", "gold": "1/2", "prediction": "\\boxed{0.5}", "verifier": "exact", "expected": False},
]


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["grade", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_rows_come_back_with_verdicts_and_disagreements_are_shown(file: Path, tmp_path: Path) -> None:
    done = run(file, "--output", tmp_path / "out.jsonl")
    assert done.exit_code == 0, done.output
    assert "2 right (33.3%), 3 wrong (50.0%), 1 not scorable (16.7%)" in done.output
    assert "5 of 6 agree" in done.output and "line 2 (three): gold '3'" in done.output
    judged = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in judged] == [True, False, True, None, False, False]
    assert [row["reason"] for row in judged][3:5] == ["not scorable", "truncated"]
    assert [{k: v for k, v in row.items() if k in ROWS[i]} for i, row in enumerate(judged)] == ROWS
    assert all(row["seconds"] >= 0 for row in judged)


def test_parquet_in_and_out(tmp_path: Path) -> None:
    pq.write_table(pa.table({"gold": ["7", "8"], "prediction": ["7", "\\boxed{9}"]}), tmp_path / "in.parquet")
    done = run(tmp_path / "in.parquet", "--output", tmp_path / "out.parquet")
    assert done.exit_code == 0, done.output
    assert pq.read_table(tmp_path / "out.parquet")["verdict"].to_pylist() == [True, False]


def test_keys_choose_the_policy(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"gold": "28\\\\%", "prediction": "28"}\n')
    assert "1 right" in run(file).output
    assert "0 right" in run(file, "--set", "percent=value").output
    assert "Did you mean 'percent'" in run(file, "--set", "percnt=value").output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"gold": "1"}', "line 1 has no column 'prediction'"),
        ('{"gold": "1", "prediction": 1}', "`prediction` must be text"),
        ('{"gold": "1", "prediction": "1", "expected": "yes"}', "`expected` must be true, false or null"),
        ('{"gold": "1", "prediction": "1", "verdict": true}', "already; rename it"),
        ('{"gold": "1", "prediction": "1", "verifier": "maths"}', "unknown verifier 'maths'"),
        ("not JSON", "line 1 is not JSON"),
        ("", "holds no rows"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(text + "\n")
    done = run(file, "--output", tmp_path / "out.jsonl")
    assert done.exit_code == 2 and message in done.output
    assert not (tmp_path / "out.jsonl").exists()


def test_the_output_must_be_another_file_of_a_known_kind(file: Path) -> None:
    assert "is the file that is read" in run(file, "--output", file).output
    assert "expected a name that ends in" in run(file, "--output", "out.csv").output
    assert "no such file" in run("nowhere.jsonl").output
