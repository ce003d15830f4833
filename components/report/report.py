"""The report: what the run came to so far, on one page and in one JSON file, and the best policy yet.

Runs at the end of every iteration. Each report takes what the last one gathered, so that the page grows
with the run and a person need not wait for the last iteration to see how it goes.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.report.analysis import by_problem, compare_policies, forgetting, forgetting_on_the_way
from components.report.render import write_page
from components.report.settings import ReportSettings
from components.shared.errors import InputError, nearest
from components.shared.policy import Policy
from components.shared.stage import read_json, result, whole_folder, write_json

_SUMMARY, _PROBLEMS = "summary.json", "problems.json"
# Of the recipe's section eval: what figures of policies depend on.
_MEASURED_BY = ("samples", "pass_at", "max_completion_tokens", "temperature", "top_p", "benchmarks")


@dataclass(frozen=True)
class IterationFiles:
    """JSON files of an iteration's stages."""

    exploration: str | Path
    harvesting: str | Path
    filtering: str | Path
    rft: str | Path
    curve: str | Path | None = None  # where policies were kept on the way


@dataclass(frozen=True)
class VanillaFiles:
    """The same of a segment of vanilla RL; all None for the first, which is iteration 1's exploration."""

    policy: str | Path | None = None
    evaluation: str | Path | None = None
    exploration: str | Path | None = None
    harvesting: str | Path | None = None
    curve: str | Path | None = None


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
        previous_results: folder with the last report's results; before the first iteration, the report of data
            preparation as a JSON file.
        evaluations: JSON files: of the base policy, and of this iteration's explored and RLoop policies.
        policies: folders: the best policy so far, this iteration's explored and RLoop policies.
        iteration_files: what the iteration's stages reported.
        vanilla: the same of vanilla RL; None where none is run.
        results_out: folder to make, with `summary.json`, and `problems.json`: each policy's samples and correct ones
            by problem, in the order of the benchmark's table.
        page_out: HTML file to write.
        policy_out: folder to make: the best policy so far.

    Returns:
        Figures for KFP metrics.

    Raises:
        InputError: the validation benchmark is none of the benchmarks, or the results before are not those of the
            iteration before or were measured otherwise, which a run that goes on from another may lead to.
    """
    summary, problems = _previous(Path(previous_results))
    if len(summary["iterations"]) != iteration - 1:
        raise InputError(
            f"the results before iteration {iteration} are those of iteration {len(summary['iterations'])}: give those "
            f"of iteration {iteration - 1}"
        )
    known = {policy["name"] for policy in summary["policies"]}
    new = [e for e in map(read_json, evaluations) if e["name"] not in known]
    folders = list(policies)
    if vanilla:
        # After the first iteration's steps, vanilla RL is where that exploration ended.
        measured = read_json(vanilla.evaluation) if vanilla.evaluation else new[-2]
        new.append({**measured, "name": f"vanilla-{iteration}", "kind": "vanilla", "iteration": iteration})
        folders += [vanilla.policy] if vanilla.policy else []
    problems |= {policy["name"]: by_problem(policy) for policy in new}
    policies_so_far = summary["policies"] + [_without_problems(policy) for policy in new]
    _check_measured_alike(policies_so_far)

    data = summary["data"]
    validation = settings.validation or next(iter(data["benchmarks"]))
    if validation not in data["benchmarks"]:
        raise InputError(f"report.validation {validation!r} is no benchmark.{nearest(validation, data['benchmarks'])}")
    stages = {name: read_json(getattr(iteration_files, name)) for name in ("exploration", "harvesting", "filtering")}
    rft = read_json(iteration_files.rft)
    this = {
        "iteration": iteration,
        "exploration": stages["exploration"]["steps"],
        "harvesting": stages["harvesting"],
        "filtering": stages["filtering"],
        "rft": rft["updates"],
        "seconds": {"rl": stages["exploration"].get("seconds"), "rft": rft.get("seconds")},
        "tracked_at": {"RL exploration": stages["exploration"].get("tracked_at"), "RFT": rft.get("tracked_at")},
        "curve": read_json(iteration_files.curve)["points"] if iteration_files.curve else [],
        "vanilla": _vanilla_segment(vanilla),
    }
    iterations = [*summary["iterations"], this]
    chosen = max(policies_so_far, key=lambda policy: _figure(policy, validation, settings))
    seed = stages["exploration"]["seed"]
    summary = {
        "policies": policies_so_far,
        "chosen_policy": chosen["name"],
        "chosen_by": {"benchmark": validation, "figure": settings.choose_by},
        "comparisons": compare_policies(policies_so_far, problems, validation, seed),
        "forgetting": {
            "policies": forgetting(problems),
            "on_the_way": forgetting_on_the_way(iterations),
        },
        "iterations": iterations,
        "data": data,
        "settings": {
            "base_policy": data["base_policy"],
            "iterations": iteration,
            "seed": seed,
            "data": data["settings"],
            "rl": stages["exploration"]["settings"],
            "filter": stages["filtering"]["settings"],
            "rft": rft["settings"],
            "eval": policies_so_far[0]["settings"],
            "report": settings.model_dump(),
        },
    }
    by_id = {Policy(folder).id: folder for folder in folders}
    _link_or_copy(by_id[chosen["policy_id"]], policy_out)
    with whole_folder(results_out) as folder:
        write_json(folder / _SUMMARY, summary)
        write_json(folder / _PROBLEMS, problems)
    write_page(page_out, summary)
    best = _figure(chosen, validation, settings)
    result(f"best policy so far: {chosen['name']}, {validation} {settings.choose_by} {best:.3f}")
    return {
        f"{policy['kind']}_{validation}_{settings.choose_by}": _figure(policy, validation, settings)
        for policy in policies_so_far
        if policy["iteration"] in (0, iteration)
    }


def _previous(results: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last report's summary and its figures by problem; before the first iteration, what data preparation gave."""
    if results.is_dir():
        return read_json(results / _SUMMARY), read_json(results / _PROBLEMS)
    return {"policies": [], "iterations": [], "data": read_json(results)}, {}


def _check_measured_alike(policies: list[dict[str, Any]]) -> None:
    first = policies[0]
    for policy in policies[1:]:
        both = (policy, first)
        measured = {f"eval.{key}": [each["settings"].get(key) for each in both] for key in _MEASURED_BY}
        measured["problems"] = [{e["benchmark"]: e["problems"] for e in each["evaluations"]} for each in both]
        for what, (here, there) in measured.items():
            if here != there:
                raise InputError(
                    f"{policy['name']} and {first['name']} cannot be compared: {what} {here} and {there}. Go on with "
                    "the benchmarks and the eval section of the run before"
                )


def _without_problems(policy: dict[str, Any]) -> dict[str, Any]:
    figures = [{key: value for key, value in e.items() if key != "by_problem"} for e in policy["evaluations"]]
    return {**policy, "evaluations": figures}


def _vanilla_segment(vanilla: VanillaFiles | None) -> dict[str, Any] | None:
    """What vanilla RL did beside this iteration; None where there is none or it was the exploration itself."""
    if vanilla is None or vanilla.exploration is None or vanilla.harvesting is None:
        return None
    exploration = read_json(vanilla.exploration)
    return {
        "exploration": exploration["steps"],
        "seconds": exploration.get("seconds"),
        "harvesting": read_json(vanilla.harvesting),
        "curve": read_json(vanilla.curve)["points"] if vanilla.curve else [],
    }


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
