import json
from datetime import date
from decimal import Decimal
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
    {"id": "cut too", "gold": "4", "prediction": "\\boxed{4}", "truncated": True, "expected": False},
    {"id": "exact", "gold": "1/2", "prediction": "\\boxed{0.5}", "verifier": "exact", "expected": False},
]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["grade", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    write_rows(path, ROWS)
    return path


def test_rows_come_back_with_verdicts_and_disagreements_are_shown(file: Path, tmp_path: Path) -> None:
    done = run(file, "--output", tmp_path / "out.jsonl")
    assert done.exit_code == 0, done.output
    assert "2 right (28.6%), 4 wrong (57.1%), 1 not scorable (14.3%)" in done.output
    assert "6 of 7 agree" in done.output and "line 2 (three): gold '3'" in done.output
    judged = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in judged] == [True, False, True, None, False, False, False]
    assert [row["reason"] for row in judged][3:6] == ["not scorable", "truncated", "truncated"]
    assert [{k: v for k, v in row.items() if k in ROWS[i]} for i, row in enumerate(judged)] == ROWS
    assert "slowest: line " in done.output and "0 timed out" in done.output
    assert all(row["seconds"] >= 0 for row in judged)


def test_parquet_in_and_out(tmp_path: Path) -> None:
    pq.write_table(pa.table({"gold": ["7", "8"], "prediction": ["7", "\\boxed{9}"]}), tmp_path / "in.parquet")
    done = run(tmp_path / "in.parquet", "--output", tmp_path / "out.parquet")
    assert done.exit_code == 0, done.output
    assert pq.read_table(tmp_path / "out.parquet")["verdict"].to_pylist() == [True, False]


def test_columns_of_later_rows_get_into_parquet(tmp_path: Path) -> None:
    first = [{"gold": "", "prediction": "7"}] * 3000  # more than a batch, and no verdict among them
    rows = [*first, {"gold": "7", "prediction": "7", "extra": 1}, {"gold": "7", "prediction": "8", "extra": 0.5}]
    write_rows(tmp_path / "in.jsonl", rows)
    done = run(tmp_path / "in.jsonl", "--output", tmp_path / "out.parquet")
    assert done.exit_code == 0, done.output
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["verdict"].to_pylist()[-3:] == [None, True, False]
    assert table["extra"].to_pylist()[-3:] == [None, 1.0, 0.5]


def test_types_that_json_does_not_have_become_text(tmp_path: Path) -> None:
    day, price = date(2026, 1, 2), Decimal("1.50")
    pq.write_table(pa.table({"gold": [price], "prediction": ["1.5"], "day": [day]}), tmp_path / "in.parquet")
    done = run(tmp_path / "in.parquet", "--output", tmp_path / "out.jsonl")
    assert done.exit_code == 0, done.output
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (row["gold"], row["day"], row["verdict"]) == ("1.50", "2026-01-02", True)


def test_gold_objects_of_parquet_have_nulls_for_the_keys_of_other_rows(tmp_path: Path) -> None:
    golds = [{"any_of": ["1", "2"]}, {"value": "4", "tolerance": 0.5}]
    pq.write_table(pa.table({"gold": pa.array(golds), "prediction": ["2", "4.4"]}), tmp_path / "in.parquet")
    assert "2 right" in run(tmp_path / "in.parquet").output


def test_text_that_utf8_cannot_hold_comes_back_as_it_was(tmp_path: Path) -> None:
    text = '{"gold": "1", "prediction": "\\ud800 \\\\boxed{1}", "note": "\u00e9", "expected": false}\n'
    (tmp_path / "in.jsonl").write_text(text)
    done = run(tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.jsonl").read_text().startswith(text.rstrip("}\n"))


def test_disagreements_are_shown_up_to_a_bound_and_safe_to_print(tmp_path: Path) -> None:
    rows = [{"id": f"\x1b[31m{i}", "gold": "1", "prediction": "\x1b\n2" * 99, "expected": True} for i in range(25)]
    write_rows(tmp_path / "in.jsonl", rows)
    done = run(tmp_path / "in.jsonl")
    assert done.exit_code == 0 and "0 of 25 agree" in done.output
    assert done.output.count("expected true, judged false") == 20 and "... and 5 more" in done.output
    assert "\x1b" not in done.output


def test_keys_choose_the_policy(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"gold": "28\\\\%", "prediction": "28"}\n')
    assert "0 right" in run(file).output
    assert "1 right" in run(file, "--set", "percent=either").output
    assert "Did you mean 'percent'" in run(file, "--set", "percnt=value").output


def test_a_verdict_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"gold": "0.5 m", "prediction": "\\\\boxed{5 \\\\text{ kg}}"}\n')
    said = "number 5 in kg: "
    assert said not in run(file).output and said in run(file, "--explain").output
    run(file, "--output", str(tmp_path / "out.jsonl"))
    assert said in json.loads((tmp_path / "out.jsonl").read_text())["explanation"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"gold": "1"}', "line 1 has no column 'prediction'"),
        ('{"gold": "1", "prediction": 1}', "`prediction` must be text"),
        ('{"gold": "1", "prediction": "1", "expected": "yes"}', "`expected` must be true, false or null"),
        ('{"gold": "1", "prediction": "1", "verdict": true}', "would overwrite; rename it"),
        ('{"gold": "1", "prediction": "1", "truncated": "no"}', "`truncated` must be true, false or null"),
        ('{"gold": "1", "prediction": "1", "verifier": 3}', "line 1: `verifier` must be the name of a verifier"),
        ('{"gold": "1", "prediction": "1", "verifier": "maths"}', "line 1: unknown verifier 'maths'"),
        ("not JSON", "line 1 is not valid JSON"),
        ("", "has no rows"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(text + "\n")
    done = run(file, "--output", tmp_path / "out.jsonl")
    assert done.exit_code == 2 and message in done.output
    assert not (tmp_path / "out.jsonl").exists()


def test_the_output_must_be_another_file_of_a_known_kind(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    assert "is also the input" in run(file, "--output", file).output
    assert "expected a file name ending in" in run(file, "--output", "out.csv").output
    assert "no such file" in run("nowhere.jsonl").output
    assert "is a folder" in run(file, "--output", folder).output
    assert "cannot write into" in run(file, "--output", file / "out.jsonl").output
    link = tmp_path / "link.jsonl"
    link.hardlink_to(file)
    assert "is also the input" in run(file, "--output", link).output


@pytest.mark.parametrize("value", ["x", {}, 2**70, "\ud800"])
def test_what_parquet_cannot_hold_is_an_error_before_the_grading(tmp_path: Path, value: Any) -> None:
    rows = [{"gold": "1", "prediction": "1", "extra": 1}, {"gold": "1", "prediction": "1", "extra": value}]
    write_rows(tmp_path / "in.jsonl", rows[1:] if value == {} else rows)
    done = run(tmp_path / "in.jsonl", "--output", tmp_path / "out.parquet")
    assert done.exit_code == 2 and "do not fit into Parquet" in done.output and "write .jsonl" in done.output
    assert not (tmp_path / "out.parquet").exists()
