"""The laptop loop in a reduced size, from the command line, as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.shared.data.schema import ROLLOUTS, TRAJECTORIES
from components.shared.policy.checks import check_policy

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
REDUCED = [
    "rl.steps=6",
    "rl.prompts_per_step=8",
    "rl.group_size=8",
    "rl.snapshot_every=0",
    "filter.max_success_rate=1.0",
    "rft.epochs=1",
    "eval.samples=4",
    "eval.pass_at=[1, 4]",
    "data.benchmarks={dev: 'countdown://dev?count=20&seed=2', test: 'countdown://test?count=20&seed=3'}",
]


def command(output: Path, *more: str) -> list[str]:
    sets = [part for change in REDUCED for part in ("--set", change)]
    recipe = str(ROOT / "recipes" / "laptop.yaml")
    return [sys.executable, "pipeline.py", "run", "--recipe", recipe, "--output-dir", str(output), *sets, *more]


def run(output: Path, *more: str, status: int = 0) -> str:
    done = subprocess.run(command(output, *more), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """A run that answers to Ctrl-C, also where these tests run in the background, which ignores it."""
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def stages_that_ran(text: str) -> list[str]:
    lines = re.findall(r"^\[ *\d+/\d+\] (.*)", text, re.MULTILINE)
    return [line.split("  ")[0] for line in lines if " cached " not in line]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("laptop")
    return output, run(output)


def test_shows_every_stage_and_the_table(finished: tuple[Path, str]) -> None:
    output, text = finished
    assert len(stages_that_ran(text)) == 17
    for policy in ("base", "explored-1", "rloop-1", "explored-2", "rloop-2"):
        assert any(line.startswith(policy) for line in text.splitlines())
    assert "avg@4" in text and "pass@4" in text and str(output / "report.html") in text


def test_leaves_report_numbers_policy_and_named_stages(finished: tuple[Path, str]) -> None:
    output, _ = finished
    summary = json.loads((output / "summary.json").read_text())
    names = [p["name"] for p in summary["policies"]]
    assert names == ["base", "explored-1", "rloop-1", "explored-2", "rloop-2"]
    assert {p["kind"] for p in summary["policies"]} == {"base", "explored", "rloop"}
    for policy in summary["policies"]:
        for e in policy["evaluations"]:
            assert e["n"] == 4 and e["problems"] == 20 and set(e["pass_at_k"]) == {"1", "4"}
    assert summary["chosen_policy"] in names
    assert summary["settings"]["rl"]["steps"] == 6
    best = max(summary["policies"], key=lambda p: p["evaluations"][0]["avg"])
    assert summary["chosen_policy"] == best["name"]
    assert (output / "report.html").read_text().startswith("<!doctype html>")
    check_policy(output / "policy", "the run's policy")
    for iteration in ("iteration-1", "iteration-2"):
        stage = output / "stages" / iteration
        shards = sorted((stage / "rl-exploration" / "rollouts").glob("*.parquet"))
        assert len(shards) == 6
        assert pq.read_schema(shards[0]).equals(ROLLOUTS)
        assert pq.read_schema(stage / "verification-filtering" / "experts" / "experts.parquet").equals(TRAJECTORIES)
        assert (stage / "report" / "page.html").is_file()
    assert not list(output.glob(".tmp-*"))


def test_the_tokenizer_and_template_are_the_same_after_every_stage(
    finished: tuple[Path, str], tiny_policy: Path
) -> None:
    output, _ = finished
    folders = [output / "stages" / "data-preparation" / "base_policy", output / "policy"]
    for iteration in ("iteration-1", "iteration-2"):
        stage = output / "stages" / iteration
        folders += [stage / "rl-exploration" / "explored_policy", stage / "rft" / "rloop_policy"]
    for folder in folders:
        assert {file.name for file in folder.iterdir()} == {file.name for file in tiny_policy.iterdir()}
        for file in tiny_policy.iterdir():
            if file.suffix != ".safetensors":
                assert (folder / file.name).read_bytes() == file.read_bytes()


def test_the_policy_loads_in_transformers_with_nothing_added(finished: tuple[Path, str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output, _ = finished
    model, tokenizer = (kind.from_pretrained(output / "policy") for kind in (AutoModelForCausalLM, AutoTokenizer))
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Use 3 7 2 to make 13."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0], skip_special_tokens=False)
    assert answer.endswith("<|end|>") and "=" in answer


def test_again_is_all_cached_and_takes_seconds(finished: tuple[Path, str]) -> None:
    output, text = finished
    before = (output / "summary.json").read_bytes()
    began = time.monotonic()
    again = run(output)
    assert time.monotonic() - began < 20
    assert stages_that_ran(again) == []
    assert text.splitlines()[-10:] == again.splitlines()[-10:]
    assert (output / "summary.json").read_bytes() == before


def test_a_change_runs_again_what_it_affects_and_no_more(finished: tuple[Path, str]) -> None:
    output, _ = finished
    """Preflight looks at every change of a parameter, and hands a stage what concerns it."""
    ran = stages_that_ran(run(output, "--set", "rft.epochs=2", "--iterations", "1"))
    assert ran == ["preflight", "iteration 1: RFT", "iteration 1: evaluation of rloop", "iteration 1: report"]
    ran = stages_that_ran(run(output, "--set", "report.choose_by=pass_at_k"))
    assert ran == ["preflight", "iteration 1: report", "iteration 2: report"]


def test_one_more_iteration_runs_that_one_alone(finished: tuple[Path, str]) -> None:
    output, _ = finished
    ran = stages_that_ran(run(output, "--iterations", "3"))
    assert len(ran) == 7 and all(stage.startswith("iteration 3: ") for stage in ran)


def find_stage_process(run_process: int, function: str) -> int | None:
    import psutil

    for child in psutil.Process(run_process).children(recursive=True):
        try:
            line = child.cmdline()
        except psutil.NoSuchProcess:
            continue
        if "kfp.dsl.executor_main" in line and function in line:
            return child.pid
    return None


@pytest.mark.parametrize(("stop", "epochs"), [(signal.SIGKILL, 3), (signal.SIGINT, 4)])
def test_a_run_that_is_stopped_in_rft_goes_on_from_there(
    finished: tuple[Path, str], stop: signal.Signals, epochs: int
) -> None:
    output, _ = finished
    changed = ("--iterations", "1", "--set", f"rft.epochs={epochs}")
    process = start(command(output, *changed))
    rft: int | None = None
    try:
        deadline = time.monotonic() + 300
        while rft is None and time.monotonic() < deadline and process.poll() is None:
            rft = find_stage_process(process.pid, "rft")
            time.sleep(0.02)
        assert rft is not None
        # The stage is killed, as when its pod dies; or the run is interrupted, as by Ctrl-C in one process only.
        os.kill(rft if stop == signal.SIGKILL else process.pid, stop)
        text, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "Traceback" not in text
    if stop == signal.SIGKILL:
        assert process.returncode == 1
        assert "iteration 1: RFT failed" in text and "runs only what failed" in text
    else:
        assert process.returncode == 130
        assert "interrupted. Finished stages are kept" in text
        with pytest.raises(ProcessLookupError):
            os.kill(rft, 0)  # its process is gone
    ran = stages_that_ran(run(output, *changed))
    assert ran == ["iteration 1: RFT", "iteration 1: evaluation of rloop", "iteration 1: report"]
    assert (output / "policy" / "model.safetensors").is_file()


def test_until_stops_after_the_stage(tmp_path: Path) -> None:
    text = run(tmp_path / "run", "--until", "data_preparation")
    assert stages_that_ran(text) == ["preflight", "data preparation"] and "stopped after data_preparation" in text
    assert not (tmp_path / "run" / "summary.json").exists()
    report = json.loads((tmp_path / "run" / "stages" / "data-preparation" / "report.json").read_text())
    assert report["benchmarks"] == {"dev": 20, "test": 20}


def test_bad_data_ends_with_its_message_and_the_way_on(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"problem": "What is 1 + 1?", "anwser": "2"}\n')
    text = run(tmp_path / "run", "--set", f"data.train={tmp_path / 'train.jsonl'}", status=1)
    assert "is known to hold the answer" in text and "answer_column" in text
    assert str(tmp_path / "run" / "logs" / "preflight.log") in text


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    output = tmp_path / "run"
    first = subprocess.Popen(command(output), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        while not (output / ".lock").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        second = subprocess.run(command(output), cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 2 and "another run is using" in second.stderr
    finally:
        first.terminate()
        assert first.stdout
        assert "interrupted" in first.stdout.read()
        assert first.wait(30) == 130


@pytest.mark.parametrize("change", ["rft_from=explored", "rl.learning_rate=0.0"])
def test_ablations_run(finished: tuple[Path, str], change: str) -> None:
    output, _ = finished
    ran = stages_that_ran(run(output, "--iterations", "1", "--set", change))
    assert "iteration 1: evaluation of rloop" in ran


def test_rft_on_the_experts_of_all_iterations(finished: tuple[Path, str]) -> None:
    output, _ = finished
    alone = json.loads((output / "stages" / "iteration-2" / "rft" / "log" / "rft.json").read_text())["trajectories"]
    ran = stages_that_ran(run(output, "--set", "experts_from=all", "--set", "rft_from=base"))
    assert ran == [
        "iteration 2: verification filtering",
        "iteration 2: RFT",
        "iteration 2: evaluation of rloop",
        "iteration 2: report",
    ]
    first, second = (
        json.loads((output / "stages" / f"iteration-{i}" / "rft" / "log" / "rft.json").read_text())["trajectories"]
        for i in (1, 2)
    )
    assert second == first + alone
