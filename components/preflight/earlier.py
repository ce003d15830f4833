"""Whether a run can go on from where another ended: its policies must be measured as that one's were."""

from pathlib import Path
from typing import Any

from components.shared.data.sources import Source
from components.shared.errors import InputError
from components.shared.stage import note, read_json

# Of the recipe's section eval: what figures of policies depend on.
# What a benchmark has of its own, and keys that are left out at their defaults, the report checks.
_MEASURED_BY = ("samples", "pass_at", "max_completion_tokens", "temperature", "top_p")
_CHANGEABLE = ("rl", "filter", "rft")  # a run may go on with other values of these


def check_earlier(results: str | Path, iterations: int, base_policy: str, settings: dict[str, Any]) -> None:
    """Makes sure that the results of the run before are those that this run can go on from.

    Args:
        results: folder of that run's last results.
        iterations: that run is meant to have.
        base_policy: of this run, as its parameter says.
        settings: of this run's stages, by `STAGE_settings`.

    Raises:
        InputError: everything that does not fit.
    """
    if not (file := Path(results) / "summary.json").is_file():
        raise InputError(f"continue_results names no results: {results} holds no summary.json")
    summary = read_json(file)
    data, evaluation = summary["data"], settings["evaluation_settings"]["eval"]
    problems = []
    if (there := len(summary["iterations"])) != iterations:
        problems.append(
            f"the results are those of iteration {there}, and this run goes on after iteration {iterations}: "
            "continue_results must be of the same iteration as the policy; `--continue RUN` finds them"
        )
    if data["base_policy"] != base_policy:
        problems.append(f"base_policy is {base_policy}, and was {data['base_policy']}")
    problems += _other_benchmarks(data["settings"]["benchmarks"], settings["preparation_settings"]["data"])
    measured = summary["settings"]["eval"]
    problems += [
        f"eval.{key} is {evaluation[key]}, and was {measured[key]}"
        for key in _MEASURED_BY
        if key in evaluation and evaluation[key] != measured[key]
    ]
    chosen, report = summary["chosen_by"], settings["report_settings"]["report"]
    for key, was in (("validation", chosen["benchmark"]), ("choose_by", chosen["figure"])):
        if report.get(key, was) != was:
            problems.append(f"report.{key} is {report[key]}, and was {was}")
    if problems:
        raise InputError(
            "this run cannot go on from those results, since its policies could not be compared with theirs:\n"
            + "\n".join(f"- {problem}" for problem in problems)
        )
    _say_what_changed(summary["settings"], settings)


def _other_benchmarks(were: dict[str, Any], data: dict[str, Any]) -> list[str]:
    are = {source["name"]: Source.check(source, f"data.benchmarks.{source['name']}") for source in data["benchmarks"]}
    if list(are) != list(were):
        return [f"data.benchmarks are {', '.join(are)}, and were {', '.join(were)}"]
    return [
        f"data.benchmarks.{name} is {source.uri}, and was {were[name]['uri']}, or is read otherwise"
        for name, source in are.items()
        if source.model_dump(exclude={"name"}) != {k: v for k, v in were[name].items() if k != "name"}
    ]


def _say_what_changed(were: dict[str, Any], settings: dict[str, Any]) -> None:
    stages = {"rl": "exploration_settings", "filter": "filtering_settings", "rft": "rft_settings"}
    changed = [
        f"{section}.{key} {value} ({were[section].get(key)} before)"
        for section in _CHANGEABLE
        for key, value in settings[stages[section]][section].items()
        if key in were[section] and were[section][key] != value and not isinstance(value, dict | list)
    ]
    if changed:
        note(f"goes on with other settings: {', '.join(changed)}")
