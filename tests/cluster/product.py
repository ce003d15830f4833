"""The product as users drive it, through its command line, and how the acceptance tests read its output."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
POLL_SECONDS = 5.0
# Changes to the laptop recipe: stages train or sample for seconds, and request no more than two cores provide.
SMALL = {
    "data": {
        "train": ["countdown://train?numbers=3&low=1&high=9&count=128&seed=1"],
        "benchmarks": {"dev": "countdown://dev?numbers=3&low=1&high=9&count=24&seed=2"},
    },
    "rl": {"steps": 4, "prompts_per_step": 8, "group_size": 8, "snapshot_every": 0},
    "rft": {"epochs": 1},
    "eval": {"samples": 4, "pass_at": [1, 2, 4]},
    "pools": {
        name: {"cpu": "250m", "memory": "2Gi", "timeout_hours": 1, "retries": 2}
        for name in ("cpu", "training", "inference")
    },
}


def small_recipe(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Writes the recipe of the acceptance tests, derived from the laptop recipe.

    Args:
        folder: target folder.
        changes: keys to override; those of a section are merged into it, as with `SMALL`.
    """
    values = yaml.safe_load((ROOT / "recipes" / "laptop.yaml").read_text())
    for section, keys in [*SMALL.items(), *(changes or {}).items()]:
        values[section] = {**values.get(section, {}), **keys} if isinstance(keys, dict) else keys
    path = folder / "acceptance.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@dataclass(frozen=True)
class Said:
    """Exit status and output of a command."""

    code: int
    output: str


def by_command_line(arguments: list[str]) -> Said:
    """Runs `python pipeline.py ARGUMENTS`."""
    command = [sys.executable, "pipeline.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return Said(done.returncode, done.stdout)


@dataclass
class Product:
    """The commands on one cluster.

    Attributes:
        connection: options of every command, such as --host.
        submission: options of `submit` and `schedule`, such as --registry.
        run: function that runs a command.
        started: IDs of the runs that it started, to be canceled when the tests are over.
        poll_seconds: polling interval of `wait`.
    """

    connection: list[str]
    submission: list[str]
    run: Callable[[list[str]], Said] = by_command_line
    started: list[str] = field(default_factory=list)
    poll_seconds: float = POLL_SECONDS

    def __call__(self, *arguments: str) -> str:
        """Returns the output of a command, which must succeed."""
        said = self.run([*arguments, *self.connection])
        assert said.code == 0, f"pipeline.py {' '.join(arguments)} ended with {said.code}:\n{said.output[-4000:]}"
        return said.output

    def submit(self, recipe: Path, name: str, *options: str) -> str:
        """Starts a run; returns its ID."""
        said = self("submit", "--recipe", str(recipe), "--run-name", name, *options, *self.submission)
        return self._run_in(said)

    def retry(self, run: str, *options: str) -> str:
        """Retries failed stages, or with --from repeats a stage; returns the ID of the run that does it."""
        return self._run_in(self("retry", run, *options))

    def schedule(self, recipe: Path, name: str, cron: str, *options: str) -> None:
        """Creates a schedule."""
        said = ["schedule", "create", "--recipe", str(recipe), "--cron", cron, "--name", name]
        self(*said, *options, *self.submission)

    def status(self, run: str) -> dict[str, Any]:
        """Returns the `status --json` of a run."""
        return read_status(self("status", run, "--json"))

    def wait(
        self, run: str, what: str, until: Callable[[dict[str, Any]], bool], minutes: float, ended: bool = False
    ) -> dict[str, Any]:
        """Polls a run until a condition holds; returns that status.

        Args:
            run: ID of the run.
            what: description of the condition, for the error message.
            until: the condition.
            minutes: timeout.
            ended: whether to keep waiting after the run has ended.
        """
        deadline = time.monotonic() + minutes * 60
        while True:
            status = self.status(run)
            if until(status):
                return status
            said = f"run {run} is {status['state']}:\n{in_lines(status)}"
            assert ended or status["state"] not in ENDED, f"waited for {what}, but {said}"
            assert time.monotonic() < deadline, f"waited {minutes:g} minutes for {what}; {said}"
            time.sleep(self.poll_seconds)

    def finish(self, run: str, minutes: float) -> dict[str, Any]:
        """Waits until a run succeeds; returns its status."""
        status = self.wait(run, "its end", lambda s: s["state"] in ENDED, minutes)
        assert status["state"] == "SUCCEEDED", f"run {run} is {status['state']}:\n{in_lines(status)}"
        return status

    def _run_in(self, said: str) -> str:
        found = re.search(r"runs/details/([0-9a-f-]{36})", said)
        assert found, f"no link to a run in what was said:\n{said}"
        self.started.append(found[1])
        return found[1]


def read_status(text: str) -> dict[str, Any]:
    """Parses the output of `status --json` and checks the keys that the tests read.

    Raises:
        AssertionError: a key is missing.
    """
    status = json.loads(text)
    assert isinstance(status, dict) and {"run_id", "state", "stages"} <= status.keys(), f"no status: {text[:400]}"
    for stage in status["stages"]:
        assert {"stage", "state"} <= stage.keys(), f"no stage: {stage}"
    return dict(status)


def stage_states(status: dict[str, Any], name: str = "") -> dict[str, str]:
    """Returns the states, by path, of the stages whose path contains a name, such as rft or iteration-1/."""
    return {s["stage"]: s["state"] for s in status["stages"] if name in s["stage"].replace("_", "-")}


def told(status: dict[str, Any]) -> dict[str, str]:
    """Returns the states of the stages that KFP reported; beyond 1 MiB it no longer reports single stages."""
    return {
        s["stage"]: s["state"]
        for s in status["stages"]
        if s["state"] != "unknown" and not (s["state"] == "succeeded" and not s.get("started_at"))
    }


def what_ran(status: dict[str, Any]) -> list[str]:
    """Returns the stages that ran instead of coming from the cache, among those that KFP reported."""
    return [path for path, state in told(status).items() if state == "succeeded"]


def in_lines(status: dict[str, Any]) -> str:
    """Formats the stages, one per line."""
    return "\n".join(f"  {s['stage']:<40} {s['state']} {s.get('waits_for') or ''}".rstrip() for s in status["stages"])
