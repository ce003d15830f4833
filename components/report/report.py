"""The report: what the run came to so far, on one page and in one JSON file, and the best policy yet.

Runs at the end of every iteration. Each report takes what the last one gathered, so that the page grows
with the run and a person need not wait for the last iteration to see how it goes.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from components.report.render import write_page
from components.report.settings import ReportSettings
from components.shared.errors import InputError, nearest
from components.shared.policy import policy_id
from components.shared.stage import read_json, result, whole_folder, write_json


def report(
    settings: ReportSettings,
    *,
    iteration: int,
    previous_results: str | Path,
    previous_policy: str | Path,
    explored_policy: str | Path,
    rloop_policy: str | Path,
    evaluations: list[str | Path],
    exploration_log: str | Path,
    harvesting_report: str | Path,
    filtering_report: str | Path,
    rft_log: str | Path,
    results_out: str | Path,
    page_out: str | Path,
    policy_out: str | Path,
) -> dict[str, float]:
    """Adds an iteration to the results and chooses the best policy so far.

    Args:
        settings: the recipe's `report` section.
        iteration: of RLoop, from 1.
        previous_results: folder with the last report's `summary.json`; before the first iteration, the report
            of data preparation as a JSON file.
        previous_policy: folder of the best policy so far.
        explored_policy, rloop_policy: folders of this iteration's policies.
        evaluations: JSON files of the base policy's evaluation and of this iteration's.
        exploration_log, harvesting_report, filtering_report, rft_log: JSON files of this iteration's stages.
        results_out: folder to make, with `summary.json`.
        page_out: HTML file to write.
        policy_out: folder to make: the best policy so far.

    Returns:
        Figures for KFP metrics.

    Raises:
        InputError: the validation benchmark is none of the benchmarks.
    """
    policies, iterations, data = _previous(Path(previous_results))
    known = {policy["name"] for policy in policies}
    policies += [e for e in map(read_json, evaluations) if e["name"] not in known]
    exploration, filtering, rft = map(read_json, (exploration_log, filtering_report, rft_log))
    iterations.append(
        {
            "iteration": iteration,
            "exploration": exploration["steps"],
            "harvesting": read_json(harvesting_report),
            "filtering": filtering,
            "rft": rft["updates"],
        }
    )
    validation = settings.validation or next(iter(data["benchmarks"]))
    if validation not in data["benchmarks"]:
        raise InputError(f"report.validation {validation!r} is no benchmark.{nearest(validation, data['benchmarks'])}")
    chosen = max(policies, key=lambda policy: _figure(policy, validation, settings))
    summary = {
        "policies": policies,
        "chosen_policy": chosen["name"],
        "chosen_by": {"benchmark": validation, "figure": settings.choose_by},
        "iterations": iterations,
        "data": data,
        "settings": {
            "base_policy": data["base_policy"],
            "iterations": iteration,
            "seed": exploration["seed"],
            "data": data["settings"],
            "rl": exploration["settings"],
            "filter": filtering["settings"],
            "rft": rft["settings"],
            "eval": policies[0]["settings"],
            "report": settings.model_dump(),
        },
    }
    folders = {policy_id(folder): folder for folder in (previous_policy, explored_policy, rloop_policy)}
    _link_or_copy(folders[chosen["policy_id"]], policy_out)
    with whole_folder(results_out) as folder:
        write_json(folder / "summary.json", summary)
    write_page(page_out, summary)
    best = _figure(chosen, validation, settings)
    result(f"best policy so far: {chosen['name']}, {validation} {settings.choose_by} {best:.3f}")
    return {
        f"{policy['kind']}_{validation}_{settings.choose_by}": _figure(policy, validation, settings)
        for policy in policies
        if policy["iteration"] in (0, iteration)
    }


def _previous(results: Path) -> tuple[list[Any], list[Any], Any]:
    """The policies, iterations and data report so far."""
    if results.is_dir():
        summary = read_json(results / "summary.json")
        return summary["policies"], summary["iterations"], summary["data"]
    return [], [], read_json(results)


def _figure(policy: dict[str, Any], validation: str, settings: ReportSettings) -> float:
    evaluation = next(e for e in policy["evaluations"] if e["benchmark"] == validation)
    figure: float = evaluation["avg"] if settings.choose_by == "avg" else list(evaluation["pass_at_k"].values())[-1]
    return figure


def _link_or_copy(source: str | Path, destination: str | Path) -> None:
    """A second copy of a policy; hard links where both are on one disk, since policies are large."""

    def link(file: str, copy: str) -> None:
        try:
            os.link(file, copy)
        except OSError:  # another disk, or one without links
            shutil.copy2(file, copy)

    with whole_folder(destination) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=link)
