"""Checks that a run can continue another one: both must measure their policies in the same way."""

from pathlib import Path
from typing import Any

from components.shared.data.sources import Source
from components.shared.errors import InputError
from components.shared.stage import note, read_json

# Keys of the recipe's eval section that a policy's results depend on.
# The report checks settings of single benchmarks, and keys left at their defaults.
_MEASURED_BY = ("samples", "pass_at", "max_completion_tokens", "temperature", "top_p")
_CHANGEABLE = ("rl", "filter", "rft")  # sections that a continued run may change


def check_earlier(results: str | Path, iterations: int, base_policy: str, settings: dict[str, Any]) -> None:
    """Checks that this run can continue from the results of an earlier run.

    Args:
        results: folder with the earlier run's final results.
        iterations: number of iterations the earlier run should have.
        base_policy: this run's base policy, as given by its parameter.
        settings: settings of this run's stages, by `STAGE_settings`.

    Raises:
        InputError: lists everything that does not match.
    """
    if not (file := Path(results) / "summary.json").is_file():
        raise InputError(f"continue_results does not point to results: {results} has no summary.json")
    summary = read_json(file)
    data, evaluation = summary["data"], settings["evaluation_settings"]["eval"]
    problems = []
    if (there := len(summary["iterations"])) != iterations:
        problems.append(
            f"the results are from iteration {there}, but this run continues after iteration {iterations}: "
            "continue_results must be from the same iteration as the policy; `--continue RUN` finds both"
        )
    if data["base_policy"] != base_policy:
        problems.append(f"base_policy is {base_policy}, but was {data['base_policy']}")
    problems += _other_benchmarks(data["settings"]["benchmarks"], settings["preparation_settings"]["data"])
    measured = summary["settings"]["eval"]
    problems += [
        f"eval.{key} is {evaluation[key]}, but was {measured[key]}"
        for key in _MEASURED_BY
        if key in evaluation and evaluation[key] != measured[key]
    ]
    chosen, report = summary["chosen_by"], settings["report_settings"]["report"]
    for key, was in (("validation", chosen["benchmark"]), ("choose_by", chosen["figure"])):
        if report.get(key, was) != was:
            problems.append(f"report.{key} is {report[key]}, but was {was}")
    if problems:
        raise InputError(
            "this run cannot continue from those results, because its policies could not be compared with theirs:\n"
            + "\n".join(f"- {problem}" for problem in problems)
        )
    _print_changes(summary["settings"], settings)


def _other_benchmarks(were: dict[str, Any], data: dict[str, Any]) -> list[str]:
    are = {source["name"]: Source.check(source, f"data.benchmarks.{source['name']}") for source in data["benchmarks"]}
    if list(are) != list(were):
        return [f"data.benchmarks are {', '.join(are)}, but were {', '.join(were)}"]
    return [
        f"data.benchmarks.{name} is {source.uri}, but was {were[name]['uri']}, or is read differently"
        for name, source in are.items()
        if source.model_dump(exclude={"name"}) != {k: v for k, v in were[name].items() if k != "name"}
    ]


def _print_changes(were: dict[str, Any], settings: dict[str, Any]) -> None:
    stages = {"rl": "exploration_settings", "filter": "filtering_settings", "rft": "rft_settings"}
    changed = [
        f"{section}.{key} {value} (was {were[section].get(key)})"
        for section in _CHANGEABLE
        for key, value in settings[stages[section]][section].items()
        if key in were[section] and were[section][key] != value and not isinstance(value, dict | list)
    ]
    if changed:
        note(f"continuing with changed settings: {', '.join(changed)}")
