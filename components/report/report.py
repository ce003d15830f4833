"""The report: the run's results so far, as one page and one JSON file, and the best policy so far.

Runs at the end of every iteration. Each report extends the previous one, so that the page grows with the run and shows
how it is going before the last iteration.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from components.report.analysis import by_problem, compare_policies, forgetting, forgetting_over_steps
from components.report.inputs import (
    PROBLEMS,
    SUMMARY,
    IterationFiles,
    StageReports,
    VanillaFiles,
    read_previous,
    read_reports,
    read_vanilla_segment,
)
from components.report.render import write_page
from components.report.settings import ReportSettings
from components.shared.errors import InputError, nearest
from components.shared.policy import Policy
from components.shared.stage import read_json, result, whole_folder, write_json

# Keys of the recipe's eval section that a policy's figures depend on.
_MEASURED_BY = ("samples", "pass_at", "max_completion_tokens", "temperature", "top_p", "benchmarks")


def report(
    settings: ReportSettings,
    *,
    iteration: int,
    previous_results: str | Path,
    evaluations: list[str | Path],
    policies: list[str | Path],
    iteration_files: IterationFiles,
    vanilla: VanillaFiles | None,
    results_out: str | Path,
    page_out: str | Path,
    policy_out: str | Path,
) -> dict[str, float]:
    """Adds an iteration to the results and chooses the best policy so far.

    Args:
        settings: the recipe's `report` section.
        iteration: of RLoop, from 1.
        previous_results: folder with the previous report's results; before iteration 1, data preparation's report as a
            JSON file.
        evaluations: JSON files of the base policy's evaluation and those of this iteration's explored and RLoop
            policies, in this order.
        policies: folders of the best policy so far and of this iteration's explored and RLoop policies.
        iteration_files: reports of the iteration's stages.
        vanilla: files of vanilla RL; None if it is not run.
        results_out: folder to make, with `summary.json`, and `problems.json`: each policy's samples and correct ones
            by problem, in the order of the benchmark's table.
        page_out: HTML file to write.
        policy_out: folder to make: the best policy so far.

    Returns:
        Figures for KFP metrics.

    Raises:
        InputError: the validation benchmark does not exist, or the previous results are of another iteration or were
            measured differently, both of which can happen if a run continues from another.
    """
    summary, problems = read_previous(Path(previous_results))
    if (before := len(summary["iterations"])) != iteration - 1:
        raise InputError(
            f"iteration {iteration} extends the results of iteration {iteration - 1}, but the given ones are of "
            f"iteration {before}; give those of iteration {iteration - 1}"
        )
    data = summary["data"]
    new = _new_evaluations(summary, evaluations, vanilla, iteration)
    problems |= {policy["name"]: by_problem(policy) for policy in new}
    evaluated = summary["policies"] + [_without_problems(policy) for policy in new]
    _check_measured_alike(evaluated)
    validation = _validation_benchmark(settings, data["benchmarks"])

    reports = read_reports(iteration_files)
    iterations = [*summary["iterations"], _iteration_entry(iteration, reports, vanilla)]
    chosen = max(evaluated, key=lambda policy: _figure(policy, validation, settings))
    summary = {
        "policies": evaluated,
        "chosen_policy": chosen["name"],
        "chosen_by": {"benchmark": validation, "figure": settings.choose_by},
        "comparisons": compare_policies(evaluated, problems, validation, reports.exploration["seed"]),
        "forgetting": {
            "policies": forgetting(problems),
            "on_the_way": forgetting_over_steps(iterations),
        },
        "iterations": iterations,
        "data": data,
        "settings": {
            **_stage_settings(iteration, data, reports),
            "eval": evaluated[0]["settings"],
            "report": settings.model_dump(),
        },
    }

    folders = [*policies, *([vanilla.policy] if vanilla and vanilla.policy else [])]
    by_id = {Policy(folder).id: folder for folder in folders}
    _link_or_copy(by_id[chosen["policy_id"]], policy_out)
    with whole_folder(results_out) as folder:
        write_json(folder / SUMMARY, summary)
        write_json(folder / PROBLEMS, problems)
    write_page(page_out, summary)
    best = _figure(chosen, validation, settings)
    result(f"best policy so far: {chosen['name']}, {validation} {settings.choose_by} {best:.3f}")
    return {
        f"{policy['kind']}_{validation}_{settings.choose_by}": _figure(policy, validation, settings)
        for policy in evaluated
        if policy["iteration"] in (0, iteration)
    }


def _new_evaluations(
    summary: dict[str, Any], evaluations: list[str | Path], vanilla: VanillaFiles | None, iteration: int
) -> list[dict[str, Any]]:
    """The evaluations of policies that are not in the results yet."""
    known = {policy["name"] for policy in summary["policies"]}
    new = [e for e in map(read_json, evaluations) if e["name"] not in known]
    if vanilla:
        # After iteration 1's steps, vanilla RL is where that exploration ended.
        measured = read_json(vanilla.evaluation) if vanilla.evaluation else new[-2]
        new.append({**measured, "name": f"vanilla-{iteration}", "kind": "vanilla", "iteration": iteration})
    return new


def _validation_benchmark(settings: ReportSettings, benchmarks: dict[str, int]) -> str:
    """The name of the benchmark on which policies are chosen."""
    name = settings.validation or next(iter(benchmarks))
    if name not in benchmarks:
        raise InputError(f"report.validation {name!r} is not a benchmark.{nearest(name, benchmarks)}")
    return name


def _stage_settings(iteration: int, data: dict[str, Any], reports: StageReports) -> dict[str, Any]:
    """The settings of the run's earlier stages, by recipe section."""
    return {
        "base_policy": data["base_policy"],
        "iterations": iteration,
        "seed": reports.exploration["seed"],
        "data": data["settings"],
        "rl": reports.exploration["settings"],
        "filter": reports.filtering["settings"],
        "rft": reports.rft["settings"],
    }


def _iteration_entry(iteration: int, reports: StageReports, vanilla: VanillaFiles | None) -> dict[str, Any]:
    """An iteration's entry in the summary."""
    exploration, rft = reports.exploration, reports.rft
    return {
        "iteration": iteration,
        "exploration": exploration["steps"],
        "harvesting": reports.harvesting,
        "filtering": reports.filtering,
        "rft": rft["updates"],
        "seconds": {"rl": exploration.get("seconds"), "rft": rft.get("seconds")},
        "tracked_at": {"RL exploration": exploration.get("tracked_at"), "RFT": rft.get("tracked_at")},
        "curve": reports.curve,
        "vanilla": read_vanilla_segment(vanilla),
    }


def _check_measured_alike(policies: list[dict[str, Any]]) -> None:
    """Raises InputError if policies were evaluated with different settings or on different problems."""
    first = policies[0]
    for policy in policies[1:]:
        both = (policy, first)
        measured = {f"eval.{key}": [each["settings"].get(key) for each in both] for key in _MEASURED_BY}
        measured["problems"] = [{e["benchmark"]: e["problems"] for e in each["evaluations"]} for each in both]
        for what, (here, there) in measured.items():
            if here != there:
                raise InputError(
                    f"{policy['name']} and {first['name']} cannot be compared: {what} {here} vs. {there}. Continue "
                    "with the benchmarks and the eval section of the previous run"
                )


def _without_problems(policy: dict[str, Any]) -> dict[str, Any]:
    figures = [{key: value for key, value in e.items() if key != "by_problem"} for e in policy["evaluations"]]
    return {**policy, "evaluations": figures}


def _figure(policy: dict[str, Any], validation: str, settings: ReportSettings) -> float:
    """The figure by which policies are chosen."""
    evaluation = next(e for e in policy["evaluations"] if e["benchmark"] == validation)
    figure: float = evaluation["avg"] if settings.choose_by == "avg" else list(evaluation["pass_at_k"].values())[-1]
    return figure


def _link_or_copy(source: str | Path, destination: str | Path) -> None:
    """Copies a policy, with hard links if both are on one disk, since policies are large."""

    def link(file: str, copy: str) -> None:
        try:
            os.link(file, copy)
        except OSError:  # another disk, or one without links
            shutil.copy2(file, copy)

    with whole_folder(destination) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=link)
