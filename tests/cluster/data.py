"""Training problems in an object store, which the acceptance tests change between two ticks of a schedule."""

import json
from pathlib import Path

from components.shared.data.countdown import generate
from components.shared.object_store import open_store

SOURCE = {"verifier": "countdown", "prompt_columns": ["prompt"], "answer_column": "answer"}


def put_problems(uri: str, seed: int, folder: Path) -> None:
    """Writes Countdown problems to an object store as one JSON Lines file; another seed, other problems.

    Args:
        uri: of the file, s3://BUCKET/FOLDER/NAME.jsonl; address and keys are the environment's (docs/object-store.md).
        seed: of the problems.
        folder: for the file on its way.
    """
    path = folder / f"problems-{seed}.jsonl"
    rows = [{"prompt": p.text, "answer": p.answer} for p in generate("train", 3, 1, 9, 128, seed)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    root, _, name = uri.rpartition("/")
    open_store(root).upload_file(path, name)
