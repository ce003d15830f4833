"""What a local run shows on the screen: one line per stage, its progress meanwhile, a table at the end."""

import json
import re
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from components.shared.reporting.shown import shown_iterations
from components.shared.stage import NOTE_MARK, PROGRESS_MARK
from launch.analysis.policy_table import print_policy_table
from launch.local.stage_log import last_error

_PROGRESS = re.compile(r"(\d+)/(\d+) (.*)")
_LINE_SECONDS = 20.0  # between progress lines if there is no live display


class Display:
    """Shows a run's stages as they happen.

    On a terminal, the running stage has a live line with its progress; elsewhere, a progress line is printed every
    twenty seconds.

    Args:
        console: where to print.
        total: number of stages.
        title: what is run.
        output_dir: folder of the run.
    """

    def __init__(self, console: Console, total: int, title: str, output_dir: Path) -> None:
        self._console, self._total, self._output_dir = console, total, output_dir
        self._number, self._began, self._run_began = 0, 0.0, time.monotonic()
        self._path, self._last_line = "", 0.0
        self._live: Progress | None = None
        self._task: TaskID | None = None
        console.print(f"[bold]rloop[/bold]  {title}; output in {output_dir}", soft_wrap=True)

    def stage_started(self, path: str) -> None:
        """Shows that a stage has started; it may turn out to be cached."""
        self._number += 1
        self._began = self._last_line = time.monotonic()
        self._path = path
        if self._console.is_terminal:
            self._live = Progress(
                TextColumn(f"[{self._number:>2}/{self._total}] {_title(path)}"),
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
                redirect_stdout=False,
            )
            self._task = self._live.add_task("starting", total=None)
            self._live.start()

    def stage_output(self, line: str) -> None:
        """Shows a line of the stage's output if it is a note or progress."""
        if line.startswith(NOTE_MARK):
            self._console.print(f"         {_title(self._path)}: {line.removeprefix(NOTE_MARK).strip()}", markup=False)
            return
        if line.startswith(PROGRESS_MARK) and (match := _PROGRESS.match(line.removeprefix(PROGRESS_MARK).strip())):
            done, total, text = int(match[1]), int(match[2]), match[3]
            if self._live and self._task is not None:
                self._live.update(self._task, completed=done, total=total, description=f"{done}/{total} {text}")
            elif time.monotonic() - self._last_line > _LINE_SECONDS:
                self._last_line = time.monotonic()
                self._console.print(f"         {_title(self._path)}: {done}/{total} {text}")

    def stage_finished(self, path: str, cached: bool, result: str) -> None:
        """Shows that a stage has succeeded or came from the cache, and its result."""
        self._close_live()
        took = " cached" if cached else f"{time.monotonic() - self._began:6.1f} s"
        self._console.print(
            f"[{self._number:>2}/{self._total}] {_title(path):<41} {took:>9}  {result}",
            markup=False,
            soft_wrap=True,
        )

    def stage_failed(self, path: str) -> None:
        """Shows that a stage ended with an error."""
        self._close_live()
        took = f"{time.monotonic() - self._began:6.1f} s"
        self._console.print(f"[{self._number:>2}/{self._total}] {_title(path):<41} {took:>9}  FAILED", markup=False)

    def stopped(self, stage: str) -> None:
        """Shows that the run has stopped at the stage that `--until` names."""
        self._console.print(f"stopped after {stage}; output in {self._output_dir / 'stages'}", soft_wrap=True)

    def interrupted(self) -> None:
        """Shows that the run ended by Ctrl-C or SIGTERM."""
        self._close_live()
        self._console.print(
            "interrupted. Finished stages are kept: run the same command again to resume.", soft_wrap=True
        )

    def failed(self, stages: dict[str, Path]) -> None:
        """Shows the errors of the failed stages, by path, and what to do."""
        for path, log in stages.items():
            self._console.print(f"\n{_title(path)} failed:", style="bold")
            self._console.print(last_error(log), markup=False, soft_wrap=True)
            self._console.print(f"log: {log}", soft_wrap=True)
        self._console.print(
            "\nFinished stages are kept: run the same command again to retry. "
            "It runs only what failed and what depends on it.",
            soft_wrap=True,
        )

    def _close_live(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None


def _title(path: str) -> str:
    """Returns a readable title for a stage's path, such as `iteration-2/evaluation-rloop`."""
    *parents, name = path.split("/")
    words = name.replace("vanilla-rl", "vanilla RL")
    words = words.replace("rl-exploration", "RL exploration").replace("rft", "RFT").replace("-", " ", 3)
    words = re.sub(r"^evaluation (\w+)$", r"evaluation of \1", words)
    return f"{parents[0].replace('-', ' ')}: {words}" if parents else words


def print_summary(console: Console, output_dir: Path) -> None:
    """Prints a table of the policies, of a long run those of a few iterations, and where everything is."""
    summary = json.loads((output_dir / "summary.json").read_text())
    headers = {
        e["benchmark"]: (f"avg@{e['n']}", f"pass@{list(e['pass_at_k'])[-1]}")
        for e in summary["policies"][0]["evaluations"]
    }
    shown = shown_iterations(summary)
    cells = {policy["name"]: _cells(policy) for policy in summary["policies"] if policy["iteration"] in (0, *shown)}
    print_policy_table(console, headers, cells, summary["chosen_policy"])
    by = summary["chosen_by"]
    console.print(f"\n* the run's policy: the best on {by['benchmark']} by {by['figure'].replace('_', ' ')}")
    if len(shown) < len(summary["iterations"]):
        console.print(f"  {len(shown)} of {len(summary['iterations'])} iterations; the report has all")
    console.print()
    for what, where in (
        ("report", "report.html"),
        ("numbers", "summary.json"),
        ("policy", "policy/"),
        ("stages", "stages/"),
        ("logs", "logs/"),
    ):
        console.print(f"{what:<8} {output_dir / where}{'/' if where.endswith('/') else ''}", soft_wrap=True)


def _cells(policy: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Returns a policy's average and pass@k, by benchmark."""
    return {
        e["benchmark"]: (f"{e['avg']:.3f}", f"{list(e['pass_at_k'].values())[-1]:.3f}") for e in policy["evaluations"]
    }
