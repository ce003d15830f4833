"""A simulated command line that behaves like the product on a healthy cluster, or with a fault that tests must detect.

It simulates stages, a cache and schedules; each `status` of a run advances it by one step.
"""

import itertools
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.product import Said

FIRST = ("preflight", "data-preparation", "evaluation-base")
ITERATION = (
    "rl-exploration",
    "rollout-harvesting",
    "verification-filtering",
    "evaluation-explored",
    "rft",
    "evaluation-rloop",
    "report",
)


@dataclass
class Run:
    """A run: its stages' states, and the cache key of their results."""

    key: str
    states: dict[str, str]
    state: str = "RUNNING"
    pending: str = ""
    attempts: dict[str, int] = field(default_factory=dict)
    repeated: tuple[str, ...] = ()
    started: dict[str, str] = field(default_factory=dict)


@dataclass
class Played:
    """The simulated command line.

    Attributes:
        fault: fault to simulate: cached-retry, blames, restarts, silent-pending, eager-tick, blind-tick or lost-pod.
    """

    fault: str = ""
    runs: dict[str, Run] = field(default_factory=dict)
    cache: set[tuple[str, str]] = field(default_factory=set)
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    clock: int = 0

    def __call__(self, arguments: list[str]) -> Said:
        """Runs a command."""
        command, *rest = arguments
        options = {a: b for a, b in itertools.pairwise(rest) if a.startswith("--")}
        answer = getattr(self, f"_{command}")(rest, options)
        return answer if isinstance(answer, Said) else Said(0, answer)

    def tick(self, name: str) -> str:
        """Starts a run of a schedule; returns its ID."""
        schedule = self.schedules[name]
        run = self._start(schedule["key"] if self.fault == "blind-tick" else self._key(schedule["options"]), 1)
        schedule["runs"].append(run)
        if self.fault == "eager-tick":
            self.runs[run].repeated = ("rft",)
        return run

    def _submit(self, rest: list[str], options: dict[str, str]) -> str:
        run = self._start(self._key(options), int(options.get("--iterations", 2)))
        if "node_selector" in options.get("--set", "") and self.fault != "silent-pending":
            self.runs[run].pending = "rloop.dev/acceptance=nowhere, 250m CPU, 2Gi"
        return self._link(run)

    def _status(self, rest: list[str], options: dict[str, str]) -> str:
        run = self.runs[rest[0]]
        self._advance(run)
        stages = [self._stage(run, path) for path in run.states]
        return json.dumps({"run_id": rest[0], "state": run.state, "stages": stages})

    def _cancel(self, rest: list[str], options: dict[str, str]) -> Any:
        run = self.runs[rest[0]]
        if run.state != "RUNNING":
            return Said(2, "there is nothing to cancel")
        run.state = "CANCELED"
        cut = "failed" if self.fault == "blames" else "canceled"
        run.states = {
            path: {"waiting": "not reached", "running": cut}.get(state, state) for path, state in run.states.items()
        }
        return "cancelling"

    def _retry(self, rest: list[str], options: dict[str, str]) -> str:
        before = self.runs[rest[0]]
        if stage := options.get("--from"):
            run = self._start(before.key, 1)
            self.runs[run].repeated = () if self.fault == "cached-retry" else (stage, "evaluation-rloop", "report")
            return self._link(run)
        kept = () if self.fault == "restarts" else ("succeeded", "cached")
        before.states = {path: state if state in kept else "waiting" for path, state in before.states.items()}
        before.state = "RUNNING"
        return self._link(rest[0])

    def _schedule(self, rest: list[str], options: dict[str, str]) -> Any:
        match rest[0]:
            case "create":
                self.schedules[options["--name"]] = {"options": options, "key": self._key(options), "runs": []}
            case "pause":
                self.schedules[rest[1]]["state"] = "paused"
            case "delete":
                del self.schedules[rest[1]]
        return "\n".join(f"{name}  every minute  {each.get('state', 'on')}" for name, each in self.schedules.items())

    @staticmethod
    def _key(options: dict[str, str]) -> str:
        """Returns the cache key of the results: the recipe and the content of its data."""
        recipe = Path(options["--recipe"]).read_text()
        source = yaml.safe_load(recipe)["data"]["train"][0]
        data = Path(source["uri"]).read_text() if isinstance(source, dict) else source
        return str(hash((recipe, options.get("--set", ""), data)))

    def _start(self, key: str, iterations: int) -> str:
        paths = [*FIRST, *(f"iteration-{n}/{name}" for n in range(1, iterations + 1) for name in ITERATION)]
        run = str(uuid.uuid4())
        self.runs[run] = Run(key, dict.fromkeys(paths, "waiting"))
        return run

    def kill(self, run: str) -> None:
        """Kills the pod of the running stage."""
        stage = next(path for path, state in self.runs[run].states.items() if state == "running")
        if self.fault == "lost-pod":
            self.runs[run].states[stage], self.runs[run].state = "failed", "FAILED"
        self.runs[run].attempts[stage] = 2

    def _advance(self, run: Run) -> None:
        if run.state != "RUNNING" or run.pending:
            return
        for path, state in run.states.items():
            if state == "running":
                run.states[path] = "succeeded"
                self.cache.add((run.key, path))
                return
            if state == "waiting":
                again = path == "preflight" or path.rpartition("/")[2] in run.repeated
                known = (run.key, path) in self.cache
                run.states[path] = "cached" if known and not again else "running"
                self.clock += 1
                run.started[path] = f"2026-11-28T03:{self.clock // 60:02d}:{self.clock % 60:02d}+00:00"
                return
        run.state = "SUCCEEDED"

    def _stage(self, run: Run, path: str) -> dict[str, Any]:
        waits = run.pending if path == "preflight" and run.state == "RUNNING" else ""
        return {
            "stage": path,
            "state": "pending" if waits else run.states[path],
            "waits_for": waits or None,
            "started_at": run.started.get(path),
            "attempt": run.attempts.get(path, 1),
        }

    @staticmethod
    def _link(run: str) -> str:
        return f"http://kubeflow.example.com/#/runs/details/{run}"
