"""Training problems in an object store, which the acceptance tests change between two ticks of a schedule."""

import json
from pathlib import Path

from components.shared.data.countdown import generate
from components.shared.object_store import open_store

SOURCE = {"verifier": "countdown", "prompt_columns": ["prompt"], "answer_column": "answer"}


def put_problems(uri: str, seed: int, folder: Path) -> None:
    """Writes Countdown problems to an object store as one JSON Lines file.

    Args:
        uri: URI of the file, s3://BUCKET/FOLDER/NAME.jsonl; endpoint and keys come from the environment
            (docs/object-store.md).
        seed: seed of the problems; another seed gives other problems.
        folder: folder for the file before it is uploaded.
    """
    path = folder / f"problems-{seed}.jsonl"
    rows = [{"prompt": p.text, "answer": p.answer} for p in generate("train", 3, 1, 9, 128, seed)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    root, _, name = uri.rpartition("/")
    open_store(root).upload_file(path, name)
