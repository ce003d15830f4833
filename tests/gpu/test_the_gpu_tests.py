"""The GPU tests' own parts, on the CPU, so that they still run when there is a GPU again."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.gpu import conftest
from tests.gpu.bodies import ROOT, main, prepare, recipe_of


def figures(body: str, given: Path, out: Path, *changes: str, **arguments: Any) -> dict[str, Any]:
    call = {"body": body, "policy": "tiny", "changes": changes, "single_precision": False}
    out.mkdir()
    (out / "call.json").write_text(json.dumps(call | {"given": str(given), "arguments": arguments}))
    main(str(out / "call.json"))
    found: dict[str, Any] = json.loads((out / "figures.json").read_text())
    return found


def test_bodies_run_on_a_cpu(tmp_path: Path) -> None:
    given = prepare("tiny", tmp_path / "given")
    tuned = figures("RFT", given, tmp_path / "rft", "rft.epochs=1", "rft.batch_size=24")
    assert len(tuned["losses"]) == 2 and tuned["step_seconds"] > 0
    changes = ("eval.samples=4", "eval.pass_at=[1]")
    measured = figures("evaluation", given, tmp_path / "eval", *changes)
    assert len(measured["completions"]) == 192 and measured["tokens_per_second"] > 0
    changes = ("rl.steps=2", "rl.prompts_per_step=2", "rl.group_size=2")
    explored = figures("RL exploration", given, tmp_path / "rl", *changes)
    assert len(explored["steps"]) == 2 and explored["tokens_per_second"] > 0


def test_the_plan_estimates_each_stage() -> None:
    recipe = recipe_of("tiny")
    for body in ("RL exploration", "RFT", "evaluation"):
        estimate = conftest.estimated(recipe, body, on_cpu=True)
        assert estimate and 0.01 < estimate < 1


def test_the_memory_of_child_processes_is_measured() -> None:
    with conftest.memory_peak(on_cpu=True) as peak:
        subprocess.run(["python3", "-c", "import time; held = bytearray(300 * 2**20); time.sleep(0.6)"], check=True)
    assert 300 * 2**20 < max(peak) < 600 * 2**20


def test_make_test_leaves_out_what_needs_a_gpu() -> None:
    (recipe,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if "not slow and" in line)
    assert "not gpu" in recipe
