"""Publishing: copies a run's policy, trajectories and report to a place of the user's, in forms that other tools read.

    URI/RUN/manifest.json                       what is published, from which run, digests and metrics; written last,
                                                and its `complete` is false while an iteration is being published
    URI/RUN/policy/                             the best policy so far: a Hugging Face model folder
    URI/RUN/report.html, summary.json
    URI/RUN/trajectories/README.md              the data card
    URI/RUN/trajectories/iteration=1/*.parquet  all trajectories, one folder per iteration
    URI/RUN/experts/iteration=1/*.parquet       those that RFT trained on

Each iteration adds its trajectories and replaces the policy and the report.
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
    "iteration": "RLoop iteration, from 1",
    "step": "RL step that sampled it, from 0",
    "rank": "rank of the training process",
    "group_id": "shared by one prompt's samples in one step",
    "sample_index": "index within the step and rank, from 0",
    "prompt": "the user's message, before the chat template",
    "completion": "decoded text, without special tokens",
    "completion_ids": "token ids as sampled, including EOS",
    "finish_reason": "stop or length",
    "reward": "1 for correct, 0 for wrong; null: not scorable",
    "policy_id": "digest of the policy that the iteration started from",
    "sampled_at": "time of sampling, UTC",
    "verdict": "verdict of the verification filter; null: not scorable or not filtered",
    "verdict_reason": "how the gold answer and the answer were read, and the rule that compared them",
    "success_rate": "success rate of the problem over the iteration's scorable rollouts",
    "dropped_because": "gate of the filter that dropped it; null for experts",
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
    """Publishes an iteration's trajectories and experts, and the run's current policy and report.

    Args:
        uri: s3://BUCKET/PREFIX or a folder.
        run: name of the run; everything is published under it.
        iteration: RLoop iteration, from 1.
        trajectories: folder of the trajectories that harvesting wrote.
        experts: folder of the trajectories that RFT trained on.
        best_policy: folder of the best policy so far.
        results: folder with the `summary.json` of the report.
        page: the report's HTML file.
        manifest_out: JSON file to write: the manifest.

    Raises:
        InputError: the store cannot be reached or written to.
    """
    store = open_store(uri)
    before = json.loads(store.read_bytes(f"{run}/{_MANIFEST}") or b"{}")
    if before:  # complete again only once everything has been uploaded
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

All completions that RL exploration sampled in {len(summary["iterations"])} iteration(s) of RLoop, correct and wrong,
with their rewards. Parquet files of one schema, one folder per iteration.

```python
from datasets import load_dataset
load_dataset("parquet", data_files="trajectories/iteration=*/*.parquet", split="train")
```

| column | type | description |
|---|---|---|
{columns}
"""


def _type(kind: pa.DataType) -> str:
    return str(kind).replace("item: ", "").replace("element: ", "")
