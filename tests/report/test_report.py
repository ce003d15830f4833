import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.report.render import write_page
from components.report.report import IterationFiles, VanillaFiles, report
from components.report.settings import ReportSettings
from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.policy.saving import save_policy
from components.shared.stage import write_json


def evaluation(name: str, kind: str, iteration: int, identity: str, avg: float, pass_at_8: float) -> dict[str, Any]:
    def figures(benchmark: str, change: float, n: int = 8) -> dict[str, Any]:
        return {
            "benchmark": benchmark,
            "n": n,
            "problems": 10,
            "not_scorable": 0,
            "avg": avg + change,
            "avg_interval": [avg - 0.1, avg + 0.1],
            "pass_at_k": {"1": avg + change, str(n): pass_at_8},
            "pass_at_k_interval": {"1": [0.0, 1.0], str(n): [0.0, 1.0]},
            "truncation_rate": 0.0,
            "mean_tokens": 12.5,
            "distinct_correct": 1.5,
            "by_problem": {"samples": [n] * 10, "correct": [round(n * min(1, avg * i / 5)) for i in range(10)]},
        }

    return {
        "name": name,
        "kind": kind,
        "iteration": iteration,
        "policy_id": identity,
        "timed_out": 0,
        "settings": {"samples": 8},
        "evaluations": [figures("dev", 0.0), figures("test", -0.05, n=4)],  # a benchmark of its own n and k,
    }


@pytest.fixture
def policies(tmp_path: Path, tiny_policy: Path) -> dict[str, Path]:
    import torch

    folders = {"base": Path(shutil.copytree(tiny_policy, tmp_path / "base"))}
    model = Policy(tiny_policy).load_model()
    for name in ("explored-1", "rloop-1", "explored-2", "rloop-2", "vanilla-2"):
        with torch.no_grad():
            next(model.parameters()).add_(0.01)
        save_policy(model, Policy(tiny_policy), tmp_path / name)
        folders[name] = tmp_path / name
    return folders


@pytest.fixture
def run(tmp_path: Path, policies: dict[str, Path]) -> Any:
    write_json(
        tmp_path / "data.json",
        {
            "base_policy": "tiny<script>",
            "benchmarks": {"dev": 10, "test": 10},
            "settings": {"train": []},
            "reasons": {"no_answer": "no answer"},
            "sources": [{"name": "t", "role": "train", "rows": 3, "kept": 2, "dropped": {"no_answer": 1}}],
            "first_prompts": {"data.train.0": "<|user|>Use 1 2 to make 3.<|end|>"},
        },
    )
    base = evaluation("base", "base", 0, Policy(policies["base"]).id, 0.3, 0.9)

    def add(
        iteration: int,
        explored: tuple[float, float],
        rloop: tuple[float, float],
        results: Path,
        best: Path,
        vanilla: tuple[float, float] | None = None,
        **settings: Any,
    ) -> Path:
        out = tmp_path / f"report-{iteration}"
        files = []
        for kind, figures in (("base", None), ("explored", explored), ("rloop", rloop)):
            name = f"{kind}-{iteration}"
            value = base if figures is None else evaluation(name, kind, iteration, Policy(policies[name]).id, *figures)
            write_json(tmp_path / f"{name}.json", value)
            files.append(tmp_path / f"{name}.json")
        steps = [{"step": i, "reward": 0.1 * i, "entropy": 0.5, "grad_norm": None} for i in range(4)]
        gates = [{"gate": "not_correct", "because": "wrong", "dropped": 7, "left": 3}]
        write_json(tmp_path / "log.json", {"steps": steps, "seed": 1, "settings": {"steps": 4}, "seconds": 8.0})
        alike = [{"step": 1, "within_step": 0.5, "between_steps": None}]
        write_json(tmp_path / "harvest.json", {"trajectories": 10, "problems": 4, "similarity_by_step": alike})
        write_json(
            tmp_path / "filter.json",
            {
                "trajectories": 10,
                "experts": 3,
                "problems": 2,
                "funnel": gates,
                "settings": {"max_per_problem": 8},
                "experts_by_step": [{"step": 2, "experts": 3}],
                "experts_by_success_rate": [0, 3, 0, 0, 0, 0, 0, 0, 0, 0],
            },
        )
        write_json(
            tmp_path / "rft.json", {"updates": [{"update": 0, "loss": 0.3}], "settings": {"epochs": 3}, "seconds": 2.0}
        )
        points = [
            {"step": step, "evaluations": evaluation("x", "explored", 1, "x", avg, 0.9)["evaluations"][:1]}
            for step, avg in ((0, 0.3), (4, 0.5))
        ]
        write_json(tmp_path / "curve.json", {"points": points})
        beside = None
        if vanilla and iteration == 1:
            beside = VanillaFiles()
        elif vanilla:
            value = evaluation("v", "vanilla", iteration, Policy(policies[f"vanilla-{iteration}"]).id, *vanilla)
            write_json(tmp_path / "vanilla.json", value)
            write_json(
                tmp_path / "vanilla-log.json",
                {"steps": [{**row, "step": row["step"] + 4} for row in steps], "seconds": 8.0},
            )
            write_json(tmp_path / "vanilla-curve.json", {"points": [{**points[1], "step": 8}]})
            beside = VanillaFiles(
                policy=policies[f"vanilla-{iteration}"],
                evaluation=tmp_path / "vanilla.json",
                exploration=tmp_path / "vanilla-log.json",
                harvesting=tmp_path / "harvest.json",
                curve=tmp_path / "vanilla-curve.json",
            )
        report(
            ReportSettings.check(settings, "report"),
            iteration=iteration,
            previous_results=results,
            evaluations=files,
            policies=[best, policies[f"explored-{iteration}"], policies[f"rloop-{iteration}"]],
            iteration_files=IterationFiles(
                exploration=tmp_path / "log.json",
                harvesting=tmp_path / "harvest.json",
                filtering=tmp_path / "filter.json",
                rft=tmp_path / "rft.json",
                curve=tmp_path / "curve.json",
            ),
            vanilla=beside,
            results_out=out / "results",
            page_out=out / "page.html",
            policy_out=out / "policy",
        )
        return out

    return add


def test_results_grow_with_the_iterations_and_the_best_policy_is_kept(
    run: Any, tmp_path: Path, policies: dict[str, Path]
) -> None:
    first = run(1, (0.4, 0.7), (0.6, 0.9), tmp_path / "data.json", policies["base"])
    summary = json.loads((first / "results" / "summary.json").read_text())
    assert [(p["name"], p["kind"], p["iteration"]) for p in summary["policies"]] == [
        ("base", "base", 0), ("explored-1", "explored", 1), ("rloop-1", "rloop", 1),
    ]  # fmt: skip
    assert summary["chosen_policy"] == "rloop-1"
    second = run(2, (0.5, 0.6), (0.55, 0.95), first / "results", first / "policy")
    summary = json.loads((second / "results" / "summary.json").read_text())
    assert [p["name"] for p in summary["policies"]] == ["base", "explored-1", "rloop-1", "explored-2", "rloop-2"]
    assert [it["iteration"] for it in summary["iterations"]] == [1, 2]
    assert summary["chosen_policy"] == "rloop-1"
    assert Policy(second / "policy").id == Policy(policies["rloop-1"]).id
    assert summary["policies"][0]["evaluations"][0]["pass_at_k"]["8"] == 0.9
    assert summary["settings"]["rl"] == {"steps": 4} and summary["settings"]["iterations"] == 2


def test_chooses_by_the_validation_benchmark_and_figure_asked_for(
    run: Any, tmp_path: Path, policies: dict[str, Path]
) -> None:
    out = run(1, (0.4, 0.7), (0.6, 0.8), tmp_path / "data.json", policies["base"], choose_by="pass_at_k")
    assert json.loads((out / "results" / "summary.json").read_text())["chosen_policy"] == "base"
    assert Policy(out / "policy").id == Policy(policies["base"]).id
    out = run(1, (0.7, 0.7), (0.6, 0.8), tmp_path / "data.json", policies["base"], validation="test")
    assert json.loads((out / "results" / "summary.json").read_text())["chosen_policy"] == "explored-1"
    with pytest.raises(InputError, match="report.validation 'tset' is not a benchmark. Did you mean 'test'"):
        run(1, (0.7, 0.7), (0.6, 0.8), tmp_path / "data.json", policies["base"], validation="tset")


def test_vanilla_rl_stands_beside_rloop_and_the_first_segment_is_the_exploration(
    run: Any, tmp_path: Path, policies: dict[str, Path]
) -> None:
    first = run(1, (0.4, 0.7), (0.6, 0.9), tmp_path / "data.json", policies["base"], vanilla=(0.0, 0.0))
    summary = json.loads((first / "results" / "summary.json").read_text())
    assert [p["name"] for p in summary["policies"]] == ["base", "explored-1", "rloop-1", "vanilla-1"]
    assert summary["policies"][3]["evaluations"] == summary["policies"][1]["evaluations"]
    second = run(2, (0.5, 0.6), (0.55, 0.95), first / "results", first / "policy", vanilla=(0.7, 0.4))
    summary = json.loads((second / "results" / "summary.json").read_text())
    assert [p["name"] for p in summary["policies"]][4:] == ["explored-2", "rloop-2", "vanilla-2"]
    assert summary["chosen_policy"] == "vanilla-2", "the best is the best, whatever made it"
    assert Policy(second / "policy").id == Policy(policies["vanilla-2"]).id
    pairs = {(c["first"], c["second"]) for c in summary["comparisons"]}
    assert pairs == {("rloop-2", "base"), ("rloop-2", "explored-2"), ("rloop-2", "vanilla-2")}
    against = next(c for c in summary["comparisons"] if c["second"] == "vanilla-2" and c["benchmark"] == "dev")
    counts = json.loads((second / "results" / "problems.json").read_text())
    ours, theirs = (sum(counts[name]["dev"]["correct"]) / 80 for name in ("rloop-2", "vanilla-2"))
    assert against["difference"] == pytest.approx(ours - theirs) and against["interval"][1] < 0
    assert [run["run"] for run in summary["forgetting"]["on_the_way"]] == [
        "RL of iteration 1", "RL of iteration 2", "vanilla RL",
    ]  # fmt: skip
    assert summary["forgetting"]["on_the_way"][2]["steps"] == [0, 4, 8]
    page = (second / "page.html").read_text()
    assert "vanilla-2" in page and "Take vanilla-2" in page


def test_the_page_is_self_contained_and_escapes_what_it_shows(
    run: Any, tmp_path: Path, policies: dict[str, Path]
) -> None:
    out = run(1, (0.4, 0.7), (0.6, 0.9), tmp_path / "data.json", policies["base"])
    page = (out / "page.html").read_text()
    assert page.count("<svg") == 7
    for foreign in ("<script", "<link", "<img", "src=", "@import", "url(http"):
        assert foreign not in page
    assert "tiny&lt;script&gt;" in page
    assert "&lt;|user|&gt;Use 1 2 to make 3.&lt;|end|&gt;" in page
    for shown in ("rloop-1", "explored-1", "pass@8", "wrong", "no answer"):
        assert shown in page


def test_the_page_of_a_long_run_shows_a_few_iterations_and_folds_the_rest(
    run: Any, tmp_path: Path, policies: dict[str, Path]
) -> None:
    out = run(1, (0.4, 0.7), (0.6, 0.9), tmp_path / "data.json", policies["base"], vanilla=(0.7, 0.4))
    summary = json.loads((out / "results" / "summary.json").read_text())
    base, *of_first = summary["policies"]
    numbers = range(1, 25)
    summary["iterations"] = [{**summary["iterations"][0], "iteration": number} for number in numbers]
    summary["policies"] = [base] + [
        {**policy, "iteration": number, "name": f"{policy['kind']}-{number}"}
        for number in numbers
        for policy in of_first
    ]
    names = [policy["name"] for policy in summary["policies"]]
    summary["forgetting"]["policies"] |= {"policies": names, "lost": [[0.1] * len(names)] * len(names)}
    runs = [
        {"run": f"RL of iteration {number}", "iteration": number, "steps": list(range(40)), "lost": [[0.1] * 40] * 40}
        for number in numbers
    ]
    summary["forgetting"]["on_the_way"] = runs
    summary["chosen_policy"] = "rloop-5"
    write_page(tmp_path / "page.html", summary)
    page = (tmp_path / "page.html").read_text()
    visible = re.sub("<details>.*?</details>", "", page)
    named = re.findall(r"(?:explored|rloop|vanilla)-(\d+)", visible)
    assert set(map(int, named)) == {1, 5, 9, 16, 24}, "spread evenly, and the chosen one"
    labelled = {7, 13, 19}  # where their RL steps begin
    assert set(map(int, re.findall(r"iteration (\d+)", visible))) <= {1, 5, 9, 16, 24} | labelled
    assert set(map(int, re.findall(r"<td[^>]*>explored-(\d+)", page))) == set(numbers)
    assert page.count("<svg") == 8, "with one over iterations"


def test_results_of_another_iteration_or_measured_otherwise_are_refused(
    run: Any, tmp_path: Path, policies: dict[str, Path]
) -> None:
    first = run(1, (0.4, 0.7), (0.6, 0.9), tmp_path / "data.json", policies["base"])
    with pytest.raises(InputError, match="but the given ones are of iteration 0; give those of iteration 1"):
        run(2, (0.4, 0.7), (0.6, 0.9), tmp_path / "data.json", policies["base"])
    file = first / "results" / "summary.json"
    summary = json.loads(file.read_text())
    for policy in summary["policies"]:
        policy["settings"]["temperature"] = 0.7
    write_json(file, summary)
    with pytest.raises(InputError, match=r"explored-2 and base cannot be compared: eval\.temperature None vs\. 0\.7"):
        run(2, (0.4, 0.7), (0.6, 0.9), first / "results", policies["base"])
    for policy in summary["policies"]:
        del policy["settings"]["temperature"]
        policy["evaluations"][0]["problems"] = 12
    write_json(file, summary)
    with pytest.raises(InputError, match=r"problems \{'dev': 10, 'test': 10\} vs\. \{'dev': 12, 'test': 10\}"):
        run(2, (0.4, 0.7), (0.6, 0.9), first / "results", policies["base"])
