import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data_preparation.settings import DataSettings
from components.shared.data.sources import RawProblem, Source, read_source
from components.shared.errors import InputError


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def read(uri: str, **settings: Any) -> list[RawProblem]:
    return list(read_source(Source(uri=uri, **settings), "data.train.0"))


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    uri = write(tmp_path / f"a.{kind}", [{"problem": "1+1?", "answer": "2"}, {"problem": "1+2?", "answer": "3"}])
    problems = read(uri)
    assert [(p.text, p.answer, p.verifier) for p in problems] == [("1+1?", "2", "math"), ("1+2?", "3", "math")]
    assert problems[1].row == ("line 2" if kind == "jsonl" else "row 1")


@pytest.mark.parametrize(
    ("row", "text", "answer"),
    [
        ({"question": "Q", "answer": "work\n#### 1,234"}, "Q", "1234"),
        ({"problem": "Q", "solution": "so \\boxed{1} no, \\boxed{\\frac{1}{2}}"}, "Q", "\\frac{1}{2}"),
        ({"problem": "Q", "solution": "S \\boxed{4}", "answer": "204"}, "Q", "204"),
        ({"input": "Q", "target": 43.0}, "Q", "43"),
        ({"input": "Q", "target": 4.5}, "Q", "4.5"),
        ({"input": "Q", "target": 43}, "Q", "43"),
        ({"body": "Seven apples.", "question": "How many?", "answer": "9 (apples)"}, "Seven apples. How many?", "9"),
        ({"Body": "B", "Question": "Q", "Answer": 145.0}, "B Q", "145"),
        ({"question": "Q", "final_answer": ["$2n$"]}, "Q", "2n"),
        ({"question": "Q", "final_answer": ["1", "2"]}, "Q", "1, 2"),
        (
            {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "Q"}],
             "reward_model": {"ground_truth": "\\frac{3}{7}", "style": "rule"}},
            "Q",
            "\\frac{3}{7}",
        ),
        ({"problem": "Q", "answer": None}, "Q", None),
        ({"problem": "Q", "answer": "  "}, "Q", None),
        ({"problem": "Q", "answer": []}, "Q", None),
        ({"problem": "Q", "answer": float("nan")}, "Q", None),
        ({"problem": None, "answer": "1"}, None, "1"),
        ({"problem": "Q", "solution": "We add 3 and 4 to get 7."}, "Q", None),
        ({"problem": "Q", "output": "thinking\n#### 7"}, "Q", "7"),
    ],
)  # fmt: skip
def test_the_usual_spellings(tmp_path: Path, row: dict[str, Any], text: str | None, answer: str | None) -> None:
    (problem,) = read(write(tmp_path / "a.jsonl", [row]))
    assert (problem.text, problem.answer) == (text, answer)


def test_columns_named_by_the_recipe(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.jsonl", [{"title": "T.", "task": "Q", "meta": {"gold": "7"}, "answer": "no"}])
    (problem,) = read(uri, prompt_columns=["title", "task"], answer_column="meta.gold", verifier="math")
    assert (problem.text, problem.answer) == ("T. Q", "7")


@pytest.mark.parametrize(
    ("row", "difficulty"),
    [({"difficulty": 4}, 4.0), ({"level": "Level 5"}, 5.0), ({"level": 3}, 3.0), ({"level": "hard"}, None), ({}, None)],
)
def test_difficulty(tmp_path: Path, row: dict[str, Any], difficulty: float | None) -> None:
    (problem,) = read(write(tmp_path / "a.jsonl", [{"problem": "Q", "answer": "1"} | row]))
    assert problem.difficulty == difficulty


def test_reasoning_gym_tasks_with_their_own_scorer_or_another() -> None:
    uri = "reasoning-gym://chain_sum?min_terms=2&max_terms=2&size=3&seed=5"
    own = read(uri)
    assert len(own) == 3 and own[0].verifier == "reasoning-gym/chain_sum"
    assert json.loads(own[0].answer or "")["metadata"]["num_terms"] == 2
    assert own == read(uri)
    other = read(uri, verifier="math")
    assert other[0].answer == json.loads(own[0].answer or "")["answer"]


def test_a_hub_data_set(tmp_path: Path) -> None:
    """Through the hub's own library, which takes a folder for a repository too."""
    write(tmp_path / "train.jsonl", [{"problem": "Q", "answer": "1"}])
    assert [(p.row, p.text, p.answer) for p in read(f"hf://{tmp_path}")] == [("row 0", "Q", "1")]
    with pytest.raises(InputError, match="Bad split: test"):
        read(f"hf://{tmp_path}?split=test")


def test_countdown_and_a_limit() -> None:
    problems = read("countdown://dev?numbers=3&low=1&high=9&count=50&seed=2", limit=4)
    assert len(problems) == 4 and problems[0].verifier == "countdown"


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ('{"problem": "Q", "answer": "1"}\n{"problem":', "a.jsonl", "line 2 is not valid JSON"),
        ('["a"]', "a.json", "row 0: expected an object with columns, found str"),
        ('{"problem": "Q"}', "a.json", "expected a JSON list of objects, found dict"),
        ("[1", "a.json", "is not valid JSON"),
        ("PAR1", "a.parquet", "is not a valid Parquet file"),
        ("x", "a.txt", "expected a file name ending in .jsonl, .ndjson, .json, .parquet"),
        ("", "a.jsonl", "has no rows"),
        ('{"text": "Q", "answer": "1"}', "a.jsonl", "none of the columns text, answer is known to hold the problem"),
        ('{"problem": "Q", "ans": "1"}', "a.jsonl", "is known to hold the answer; set answer_column"),
    ],
)
def test_bad_files_say_where_and_what_to_do(tmp_path: Path, content: str, name: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        read(str(tmp_path / name))
    assert str(tmp_path / name) in str(raised.value) and "data.train.0" in str(raised.value)


@pytest.mark.parametrize(
    ("uri", "settings", "message"),
    [
        ("nowhere.jsonl", {}, "no such file: nowhere.jsonl"),
        ("ftp://x/y", {}, "unknown scheme ftp://"),
        ("hf://[bad", {}, "is not a URI"),
        ("reasoning-gym://simple_integration", {}, "what a policy writes must not run"),
        ("reasoning-gym://chain_sums", {}, "no task 'chain_sums'. Did you mean 'chain_sum'"),
        ("reasoning-gym://chain_sum?min_term=2", {}, "unknown option 'min_term'. Did you mean 'min_terms'"),
        ("reasoning-gym://chain_sum?min_terms=two", {}, "min_terms must be int, not 'two'"),
        ("countdown://train?number=3", {}, "unknown option 'number'. Did you mean 'numbers'"),
        ("countdown://trian?count=3", {}, "split 'trian' is not one of"),
        ("hf://org/name?spilt=train", {}, "unknown option 'spilt'"),
    ],
)
def test_bad_uris(uri: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(uri, **settings)


def test_unreadable_lines_and_pages_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"problem": "Q", "answer": "1"}\n{"problem": "\xff", "answer": "1"}\n')
    with pytest.raises(InputError, match="line 2 is not valid JSON"):
        read(str(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl").write_text("[" * 200_000)
    with pytest.raises(InputError, match="line 1 is not valid JSON"):
        read(str(tmp_path / "b.jsonl"))
    uri = write(tmp_path / "c.parquet", [{"problem": "Q" * 500, "answer": "1"}] * 50)
    content = bytearray(Path(uri).read_bytes())
    content[10:40] = b"\xff" * 30
    Path(uri).write_bytes(content)
    with pytest.raises(InputError, match="is not a valid Parquet file"):
        read(uri)


def test_a_wrong_column_suggests_the_nearest(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.jsonl", [{"problem": "Q", "answer": "1"}])
    with pytest.raises(InputError, match="no column 'anwser'. Did you mean 'answer'"):
        read(uri, answer_column="anwser")


def test_sources_may_be_given_as_uris() -> None:
    settings = DataSettings.check({"train": "a.jsonl", "benchmarks": ["x/math500.jsonl", "x/aime24.jsonl"]}, "data")
    assert settings.train[0].uri == "a.jsonl"
    assert list(settings.benchmarks) == ["math500", "aime24"]
    with pytest.raises(InputError, match="two benchmarks would be named 'a'"):
        DataSettings.check({"train": "t.jsonl", "benchmarks": ["x/a.jsonl", "y/a.jsonl"]}, "data")
    with pytest.raises(InputError, match="may only contain letters, digits"):
        DataSettings.check({"train": "t.jsonl", "benchmarks": {"../a": "a.jsonl"}}, "data")
    with pytest.raises(InputError, match="must contain {problem}"):
        DataSettings.check({"train": "t.jsonl", "benchmarks": "a.jsonl", "prompt_template": "hi"}, "data")
