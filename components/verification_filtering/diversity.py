"""Chooses which of a problem's solutions to keep: the most different ones, early ones first."""

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.shared.data.ngrams import SKETCH_SIZE, similarities, sketch
from components.shared.data.schema import read_batches
from components.shared.stage import Progress

_SKETCH_BYTES = SKETCH_SIZE * np.dtype(np.uint64).itemsize


def keep_most_different(
    trajectories: str | Path,
    rows: npt.NDArray[np.int64],
    problems: npt.NDArray[np.int32],
    count: int,
    folder: Path,
) -> npt.NDArray[np.bool_]:
    """Decides which solutions to keep, at most `count` per problem.

    The sketches together may be too large for memory, so they wait in a file in the order of `rows`.

    Args:
        trajectories: folder with the trajectories.
        rows: the solutions' rows among the trajectories, ordered by problem and RL step.
        problems: the number of each solution's problem.
        count: maximum number per problem.
        folder: for the file.
    """
    kept = np.zeros(len(rows), bool)
    starts = [0, *(np.flatnonzero(np.diff(problems)) + 1).tolist(), len(rows)]
    with (folder / "sketches").open("w+b") as file:
        progress, read, order = Progress(len(rows), "solutions compared"), 0, np.argsort(rows)
        for batch in read_batches(trajectories, ["completion"]):
            first, end = np.searchsorted(rows, [read, read + batch.num_rows], sorter=order)
            texts = batch["completion"].take(rows[order[first:end]] - read).to_pylist()
            for place, text in zip(order[first:end].tolist(), texts, strict=True):
                file.seek(place * _SKETCH_BYTES)
                file.write(sketch(text).tobytes())
            read += batch.num_rows
            progress.advance(int(end - first))
        file.seek(0)
        for start, end in itertools.pairwise(starts):
            sketches = np.frombuffer(file.read((end - start) * _SKETCH_BYTES), np.uint64).reshape(-1, SKETCH_SIZE)
            kept[start + np.array(most_different(sketches, count))] = True
    return kept


def most_different(sketches: npt.NDArray[np.uint64], count: int) -> list[int]:
    """Picks up to `count` solutions: the first one, then repeatedly the one least similar to those picked.

    Args:
        sketches: of the solutions, by RL step; shape (solutions, SKETCH_SIZE).
        count: maximum number to pick.

    Returns:
        Their indices, in the order picked. Ties go to the lower index.
    """
    picked: list[int] = []
    closest = np.zeros(len(sketches))  # similarity to the most similar one picked; infinite if picked itself
    while len(picked) < min(count, len(sketches)):
        chosen = int(np.argmin(closest))
        picked.append(chosen)
        closest = np.maximum(closest, similarities(sketches[chosen], sketches))
        closest[chosen] = np.inf
    return picked
