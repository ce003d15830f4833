import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.shared.data.sources import Source, read_source, source_name
from components.shared.data.table_files import table_kind
from components.shared.errors import InputError

ROWS = [{"problem": "1 + 1?", "answer": "2"}, {"problem": 'say "7,\n8"', "answer": "007"}]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def separated(delimiter: str) -> Callable[[Path, list[dict[str, Any]]], None]:
    def write(path: Path, rows: list[dict[str, Any]]) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)

    return write


def arrow(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Any]] = {
    "jsonl": jsonl,
    "ndjson": jsonl,
    "json": lambda path, rows: path.write_text(json.dumps(rows)),
    "csv": separated(","),
    "tsv": separated("\t"),
    "parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
    "arrow": arrow,
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


def read(uri: object, **more: Any) -> list[tuple[str | None, str | None]]:
    return [(p.text, p.answer) for p in read_source(Source(uri=str(uri), **more), "data.train.0")]


EXPECTED = [("1 + 1?", "2"), ('say "7,\n8"', "007")]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_compressed_or_not_and_whatever_its_name_says(tmp_path: Path, kind: str, compression: str) -> None:
    plain = tmp_path / f"plain.{kind}"
    WRITERS[kind](plain, ROWS)
    packed = tmp_path / f"a.{kind.upper()}{compression}"
    packed.write_bytes(COMPRESS[compression](plain.read_bytes()))
    assert read(packed) == EXPECTED
    unnamed = tmp_path / f"b.{kind}"  # as an object store may hand it out
    unnamed.write_bytes(packed.read_bytes())
    assert read(unnamed) == EXPECTED


@pytest.mark.parametrize("compression", [".gz", ".zst", ".bz2", ".xz"])
def test_a_compressed_file_that_was_cut_off_is_named(tmp_path: Path, compression: str) -> None:
    data = COMPRESS[compression]("".join(f'{{"problem": "{i}", "answer": "{i}"}}\n' for i in range(20_000)).encode())
    (tmp_path / f"a.jsonl{compression}").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"data.train.0: .*a.jsonl.* truncated|is not valid JSON"):
        read(tmp_path / f"a.jsonl{compression}")


def test_json_lines_by_another_name_and_with_a_byte_order_mark(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.json", ROWS)
    assert read(tmp_path / "a.json") == EXPECTED
    for name in ("b.json", "b.jsonl"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.json").read_bytes())
        assert read(tmp_path / name) == EXPECTED
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode())
    assert read(tmp_path / "c.json") == EXPECTED


def test_a_folder_of_shards_and_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, row in enumerate(ROWS):
        jsonl(tmp_path / f"part-{number}.jsonl", [row])
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "state.json").write_text("{}")
    assert read(tmp_path) == read(tmp_path / "part-*.jsonl") == read(f"file://{tmp_path}/part-[01].jsonl") == EXPECTED
    (first, _) = read_source(Source(uri=str(tmp_path)), "data.train.0")
    assert first.row == "part-0.jsonl line 1"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("~/part-0.jsonl") == EXPECTED[:1]
    with pytest.raises(InputError, match=r"data.train.0: no file matches .*/none-\*.jsonl"):
        read(tmp_path / "none-*.jsonl")
    jsonl(tmp_path / "part-test.jsonl", ROWS)
    with pytest.raises(InputError, match="is a folder with files of several splits, .*; choose one with a pattern"):
        read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is a folder without tables; expected a file name ending in .jsonl"):
        read(tmp_path / "empty")


NAMES = st.text(st.sampled_from("ab #?%&+=;,@()[]*!~'20é"), min_size=1, max_size=12).filter(
    lambda name: name.strip(". ") == name and name != "~"
)


@given(NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_of_any_name_is_the_one_that_is_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "names"
    for old in folder.glob("*") if folder.is_dir() else []:
        old.unlink()
    folder.mkdir(exist_ok=True)
    jsonl(folder / f"{name}.jsonl", ROWS)
    assert read(folder / f"{name}.jsonl") == EXPECTED
    assert read(f"file://{folder}/{name}.jsonl") == EXPECTED
    assert source_name(f"{folder}/{name}.jsonl") == name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "problem,answer,answer\nQ,1,2\n", "has the column 'answer' twice; rename one of them"),
        ("a.json", '[{"problem": "Q", "answer": 1, "answer": 2}]', "has the column 'answer' twice"),
        ("a.jsonl", '{"problem": "Q", "answer": 1, "answer": 2}\n', "line 1 has the column 'answer' twice"),
        ("a.csv", "problem,answer\nQ,1\nR,1,2\n", "line 3 has 3 cells, but the table has 2 columns"),
        ("a.csv", 'problem,answer\nQ,"1\n', "is not valid CSV in UTF-8"),
        ("a.csv", b"problem,answer\n\xff,1\n", "is not valid CSV in UTF-8"),
        ("a.arrow", "ARROW", "is not a valid Arrow file"),
        ("a.csv", "", "has no rows"),
        (
            "a.txt",
            "x",
            "expected a file name ending in .jsonl, .ndjson, .json, .parquet, .csv, .tsv, .arrow, optionally",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=f"data.train.0: .*{name}.*{message}|data.train.0: .*{message}"):
        read(tmp_path / name)


def test_columns_twice_in_parquet_are_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(["Q"]), pa.array(["1"]), pa.array(["2"])], names=["problem", "answer", "answer"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="a.parquet has the column 'answer' twice"):
        read(tmp_path / "a.parquet")


def test_kinds_by_name() -> None:
    assert [table_kind(name) for name in ("A.CSV.GZ", "a.b.jsonl", "a.gz", "a.txt", "a")] == [
        ".csv", ".jsonl", None, None, None,
    ]  # fmt: skip


def test_objects_of_any_key_in_shards_and_gzip_encoded(s3: Any, tmp_path: Path) -> None:
    """Against a real server: `#`, `?`, `%` and spaces are parts of keys, and Content-Encoding is no trap."""
    from components.shared.object_store import open_store
    from components.shared.object_store.s3 import new_client

    jsonl(tmp_path / "a.jsonl", ROWS)
    store = open_store("s3://artifacts")
    for key in ("odd/a#b.jsonl", "odd/a?b=c.jsonl", "odd/a%20b.jsonl", "odd/a b+c.jsonl", "odd/a[1]*.jsonl"):
        jsonl(tmp_path / "one.jsonl", [{"problem": key, "answer": "1"}])
        store.upload_file(tmp_path / "one.jsonl", key)
    for key in ("odd/a#b.jsonl", "odd/a?b=c.jsonl", "odd/a%20b.jsonl", "odd/a b+c.jsonl", "odd/a[1]*.jsonl"):
        assert read(f"s3://artifacts/{key}") == [(key, "1")]
    for number, row in enumerate(ROWS):
        jsonl(tmp_path / "one.jsonl", [row])
        store.upload_file(tmp_path / "one.jsonl", f"shards/part-{number}.jsonl")
    store.write_bytes("shards/_SUCCESS", b"")
    assert read("s3://artifacts/shards") == read("s3://artifacts/shards/part-*.jsonl") == EXPECTED
    packed = gzip.compress((tmp_path / "a.jsonl").read_bytes())
    (tmp_path / "packed").write_bytes(packed)
    new_client(s3.endpoint).fput_object(
        "artifacts", "encoded/a.jsonl", str(tmp_path / "packed"), metadata={"Content-Encoding": "gzip"}
    )
    assert read("s3://artifacts/encoded/a.jsonl") == EXPECTED
    with pytest.raises(InputError, match="s3://artifacts/none/a.jsonl: no such object or folder"):
        read("s3://artifacts/none/a.jsonl")
