"""Publishing: a run's policy, trajectories and report, in a place of the user's and in forms that others read.

    URI/RUN/manifest.json                       what is here, from which run, digests and metrics; written last, and
                                                `complete` is false while an iteration replaces it
    URI/RUN/policy/                             the best policy so far: a Hugging Face model folder
    URI/RUN/report.html, summary.json
    URI/RUN/trajectories/README.md              the data card
    URI/RUN/trajectories/iteration=1/*.parquet  every trajectory, one folder an iteration
    URI/RUN/experts/iteration=1/*.parquet       those that RFT learnt from

Each iteration adds its own and replaces the policy and the report.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.shared.data.schema import TRAJECTORIES, count_rows, parquet_files
from components.shared.object_store import open_store
from components.shared.policy import Policy
from components.shared.stage import files_digest, read_json, result, write_json

_MANIFEST = "manifest.json"
_COLUMNS = {
    "problem_id": "hash of the problem's normalised text",
    "iteration": "of RLoop, from 1",
    "step": "the RL step that sampled it, from 0",
    "rank": "the training process",
    "group_id": "one prompt's samples of one step",
    "sample_index": "within the step and rank, from 0",
    "prompt": "the user's message, before the chat template",
    "completion": "decoded, without special tokens",
    "completion_ids": "token ids as they were sampled, EOS included",
    "finish_reason": "stop or length",
    "reward": "1 for correct, 0 for wrong; null: not scorable",
    "policy_id": "digest of the policy that the iteration started from",
    "sampled_at": "UTC",
    "verdict": "of the verification filter; null: not scorable or not filtered",
    "verdict_reason": "how gold answer and answer were read, and by which rule compared",
    "success_rate": "of the problem, over the iteration's scorable rollouts",
    "dropped_because": "the gate that left it out; null for experts",
}


def publish(
    uri: str,
    run: str,
    *,
    iteration: int,
    trajectories: str | Path,
    experts: str | Path,
    best_policy: str | Path,
    results: str | Path,
    page: str | Path,
    manifest_out: str | Path,
) -> None:
    """Publishes an iteration's trajectories and experts, and the run's policy and report as they are now.

    Args:
        uri: s3://BUCKET/PREFIX or a folder.
        run: name of the run, under which everything lies.
        iteration: of RLoop, from 1.
        trajectories: folder of what harvesting gathered.
        experts: folder of the trajectories that RFT learnt from.
        best_policy: folder of the best policy so far.
        results: folder with the `summary.json` of the report.
        page: the report's HTML file.
        manifest_out: JSON file to write: the manifest.

    Raises:
        InputError: the store cannot be reached or written.
    """
    store = open_store(uri)
    before = json.loads(store.read_bytes(f"{run}/{_MANIFEST}") or b"{}")
    if before:  # what it says holds again when all of it has been sent
        store.write_bytes(f"{run}/{_MANIFEST}", _json({**before, "complete": False}))
    store.upload_folder(best_policy, f"{run}/policy")
    for name, folder in (("trajectories", trajectories), ("experts", experts)):
        store.upload_folder(folder, f"{run}/{name}/iteration={iteration}")
    store.upload_file(page, f"{run}/report.html")
    store.upload_file(Path(results) / "summary.json", f"{run}/summary.json")
    summary = read_json(Path(results) / "summary.json")
    store.write_bytes(f"{run}/trajectories/README.md", _card(run, summary).encode())
    entry = {
        "iteration": iteration,
        "trajectories": count_rows(trajectories),
        "experts": count_rows(experts),
        "trajectories_sha256": files_digest(parquet_files(trajectories)),
        "experts_sha256": files_digest(parquet_files(experts)),
    }
    others = [other for other in before.get("iterations", []) if other["iteration"] != iteration]
    manifest = {
        "run": run,
        "complete": True,
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "policy": {"path": "policy", "name": summary["chosen_policy"], "policy_id": Policy(best_policy).id},
        "iterations": sorted([*others, entry], key=lambda item: int(item["iteration"])),
        "policies": summary["policies"],
    }
    store.write_bytes(f"{run}/{_MANIFEST}", _json(manifest))
    write_json(manifest_out, manifest)
    result(f"published under {uri.rstrip('/')}/{run}")


def _json(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1) + "\n").encode()


def _card(run: str, summary: dict[str, Any]) -> str:
    columns = "\n".join(f"| `{f.name}` | {_type(f.type)} | {_COLUMNS[f.name]} |" for f in TRAJECTORIES)
    return f"""---
configs:
  - config_name: default
    data_files: iteration=*/*.parquet
tags: [reinforcement-learning, rollouts]
---
# Trajectories of {run}

Every completion that RL exploration sampled in {len(summary["iterations"])} iteration(s) of RLoop, right and wrong,
with its reward. One folder an iteration, Parquet, one schema.

```python
from datasets import load_dataset
load_dataset("parquet", data_files="trajectories/iteration=*/*.parquet", split="train")
```

| column | type | |
|---|---|---|
{columns}
"""


def _type(kind: pa.DataType) -> str:
    return str(kind).replace("item: ", "").replace("element: ", "")
