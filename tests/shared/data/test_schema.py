import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.shared.data.schema import read_batches, read_rows
from components.shared.data.table_files import file_rows


@pytest.mark.parametrize("read", [read_batches, read_rows, lambda path: file_rows(path, "FILE")])
def test_what_has_been_read_leaves_memory(tmp_path: Path, read: Callable[[Path], Iterable[Any]]) -> None:
    path = tmp_path / "table.parquet"
    group = pa.table({"text": [os.urandom(256).hex() for _ in range(2048)]})  # half a MiB, once compressed
    with pq.ParquetWriter(path, group.schema, compression="zstd") as writer:
        for _ in range(40):
            writer.write_table(group)
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in read(path))
    assert most < path.stat().st_size / 2
