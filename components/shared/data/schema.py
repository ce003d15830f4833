"""The schemas of the tables that stages exchange, and how to write and read them."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.errors import InputError
from components.shared.stage import whole_file

PROBLEMS = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),  # hash of the normalised text
        pa.field("prompt", pa.string(), nullable=False),  # the user's message or a conversation, as in chat.py
        pa.field("answer", pa.string(), nullable=False),  # passed to the verifier
        pa.field("source", pa.string(), nullable=False),
        pa.field("verifier", pa.string(), nullable=False),  # name of the verifier that grades completions
        pa.field("difficulty", pa.float64()),
    ]
)

ROLLOUTS = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("iteration", pa.int32(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),  # the RL step that sampled it, from 0
        pa.field("rank", pa.int32(), nullable=False),  # the training process
        pa.field("group_id", pa.string(), nullable=False),  # samples of one prompt in one step
        pa.field("sample_index", pa.int32(), nullable=False),  # within the step and rank, from 0
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),  # decoded, without special tokens
        pa.field("completion_ids", pa.list_(pa.int32()), nullable=False),  # as sampled, EOS included
        pa.field("finish_reason", pa.string(), nullable=False),  # stop | length
        pa.field("reward", pa.float32()),  # null: not scorable
        pa.field("policy_id", pa.string(), nullable=False),  # the policy the iteration started from
        pa.field("sampled_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

TRAJECTORIES = pa.schema(
    [
        *ROLLOUTS,
        pa.field("verdict", pa.bool_()),  # null: not scorable
        pa.field("verdict_reason", pa.string()),  # how the answer was read and compared; null: not filtered yet
        pa.field("success_rate", pa.float32()),  # of the problem, over this iteration's scorable rollouts
        pa.field("dropped_because", pa.string()),  # null: kept, or not filtered yet
    ]
)

SAMPLES = pa.schema(
    [
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("correct", pa.bool_()),  # null: not scorable
        pa.field("reason", pa.string(), nullable=False),  # of the verdict
    ]
)


EARLIER = "earlier"  # folder among the experts: those of earlier iterations, one file per iteration
# Next to the rollout shards: the `first` step and the `end`, one past the last. Readers of Parquet folders ignore names
# that start with an underscore.
ROLLOUT_STEPS = "_steps.json"
BENCHMARK_ORDER = "benchmarks.json"  # next to the benchmarks' tables: their names in the recipe's order


class TableWriter:
    """Buffers rows and writes them one row group at a time."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema, rows_per_group: int) -> None:
        self._writer, self._schema, self._rows_per_group = writer, schema, rows_per_group
        self._rows: list[dict[str, Any]] = []
        self.written = 0

    def write(self, row: dict[str, Any]) -> None:
        """Adds one row with the schema's columns."""
        self._rows.append(row)
        if len(self._rows) >= self._rows_per_group:
            self.flush()

    def write_batch(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Adds rows that are already in Arrow format."""
        self.flush()
        if batch.num_rows:
            self._writer.write(batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch]))
            self.written += batch.num_rows

    def flush(self) -> None:
        """Writes the buffered rows."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self.written += len(self._rows)
            self._rows = []


@contextlib.contextmanager
def table_writer(path: str | Path, schema: pa.Schema, rows_per_group: int = 2048) -> Iterator[TableWriter]:
    """Writes a Parquet file row by row, and renames it into place when it is complete."""
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as parquet:
        writer = TableWriter(parquet, schema, rows_per_group)
        yield writer
        writer.flush()


def write_table(path: str | Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    """Writes rows to a Parquet file atomically; returns their number."""
    with table_writer(path, schema) as writer:
        for row in rows:
            writer.write(row)
    return writer.written


def read_rows(path: str | Path, columns: list[str] | None = None, batch_size: int = 2048) -> Iterator[dict[str, Any]]:
    """Reads a Parquet file, or every Parquet file of a folder sorted by name, as rows, one batch at a time."""
    for batch in read_batches(path, columns, batch_size):
        yield from batch.to_pylist()


def read_batches(
    path: str | Path, columns: list[str] | None = None, batch_size: int = 2048
) -> Iterator[pa.RecordBatch]:
    """Reads a Parquet file, or every Parquet file of a folder sorted by name, as record batches."""
    for file in parquet_files(path):
        # With pre-buffering, every row group stays in memory until the file is closed.
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            yield from parquet.iter_batches(batch_size=batch_size, columns=columns)


def count_rows(path: str | Path) -> int:
    """Counts the rows of a Parquet file, or of a folder of them, from the footers."""
    return sum(pq.read_metadata(file).num_rows for file in parquet_files(path))


def parquet_files(path: str | Path) -> list[Path]:
    """Lists the Parquet files at a path, sorted by name.

    Raises:
        InputError: there are none.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    if not files:
        raise InputError(f"{path} has no Parquet files; expected the output of an earlier stage")
    return files


def earlier_expert_files(experts: str | Path) -> list[Path]:
    """Lists the Parquet files of earlier iterations' experts; empty unless the recipe passes them on."""
    return sorted((Path(experts) / EARLIER).glob("*.parquet"))
