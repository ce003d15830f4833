"""The report's analyses on hand-made cases."""

from typing import Any

from components.report.advice import advice
from components.report.analysis import compare_policies, forgetting, lost


def test_forgetting_by_hand() -> None:
    solved = [[True, True, False, False], [True, False, True, False], [False, False, True, True]]
    assert lost(solved) == [[0.0, 0.25, 0.5], [0.25, 0.0, 0.25], [0.5, 0.25, 0.0]]
    counts = {
        "early": {"b": {"samples": [4, 4], "correct": [1, 0]}},
        "late": {"b": {"samples": [4, 4], "correct": [0, 3]}},
    }
    found = forgetting(counts)
    assert found == {"policies": ["early", "late"], "problems": 2, "lost": [[0.0, 0.5], [0.5, 0.0]]}


def test_comparisons_are_of_the_problems_that_both_can_be_judged_on() -> None:
    policies = [
        {
            "name": name,
            "kind": kind,
            "iteration": i,
            "evaluations": [{"benchmark": "b", "avg": 0.5, "pass_at_k": {"1": 0.5, "2": 0.6}}],
        }
        for name, kind, i in (("base", "base", 0), ("explored-1", "explored", 1), ("rloop-1", "rloop", 1))
    ]
    counts = {
        "base": {"b": {"samples": [2, 2, 1], "correct": [0, 1, 1]}},
        "explored-1": {"b": {"samples": [2, 2, 2], "correct": [1, 1, 1]}},
        "rloop-1": {"b": {"samples": [2, 2, 2], "correct": [2, 1, 0]}},
    }
    found = {(c["second"], c["figure"]): c for c in compare_policies(policies, counts, "b", seed=0)}
    assert found["base", "avg"]["problems"] == 3 and found["base", "avg"]["difference"] == (1 + 0 - 1) / 3
    # pass@2: 1 and 1 against 0 and 1; the third problem has one sample only.
    assert found["base", "pass@2"]["problems"] == 2 and found["base", "pass@2"]["difference"] == 0.5
    assert found["base", "pass@2"]["relative"] == 1.0
    assert found["explored-1", "avg"]["difference"] == 0.0


def test_advice_names_what_the_figures_say() -> None:
    def policy(name: str, kind: str, avg: float, most: float) -> dict[str, object]:
        return {"name": name, "kind": kind, "evaluations": [{"benchmark": "b", "avg": avg, "pass_at_k": {"8": most}}]}

    summary = {
        "policies": [
            policy("base", "base", 0.2, 0.9),
            policy("explored-1", "explored", 0.4, 0.5),
            policy("rloop-1", "rloop", 0.4, 0.9),
        ],
        "chosen_policy": "rloop-1",
        "chosen_by": {"benchmark": "b", "figure": "avg"},
        "comparisons": [
            {
                "first": "rloop-1",
                "second": "base",
                "benchmark": "b",
                "figure": "avg",
                "difference": 0.2,
                "interval": [0.1, 0.3],
            },
            {
                "first": "rloop-1",
                "second": "base",
                "benchmark": "b",
                "figure": "pass@8",
                "difference": 0.0,
                "interval": [-0.1, 0.1],
            },
        ],
        "iterations": [
            {
                "iteration": 1,
                "exploration": [{"zero_spread": 0.9, "truncated": 0.5}],
                "filtering": {"problems": 1},
                "harvesting": {"problems": 10},
            }
        ],
    }
    text = " ".join(advice(summary))
    for words in (
        "RL narrows the policy",
        "better by 0.200",
        "not distinguishable from 0",
        "Take rloop-1",
        "zero reward variance",
        "were truncated",
        "--with-vanilla-rl",
    ):
        assert words in text, words


def test_it_is_said_when_training_problems_are_learned_by_heart() -> None:
    def summary(*rewards: float) -> dict[str, Any]:
        def policy(name: str, avg: float) -> dict[str, Any]:
            return {
                "name": name,
                "kind": name,
                "evaluations": [{"benchmark": "b", "avg": avg, "pass_at_k": {"8": 0.8}}],
            }

        numbers = range(1, len(rewards) + 1)
        return {
            "chosen_policy": "rloop-1",
            "chosen_by": {"benchmark": "b"},
            "policies": [
                policy("base", 0.2),
                *(policy(f"{k}-{i}", 0.3) for i in numbers for k in ("explored", "rloop")),
            ],
            "comparisons": [],
            "iterations": [
                # What RL reaches later in the iteration does not count: its initial policy is compared.
                {
                    "iteration": i,
                    "exploration": [{"reward": r} for r in (reward, 0.9, 0.9, 0.9)],
                    "filtering": {"problems": 9},
                    "harvesting": {"problems": 10},
                }
                for i, reward in zip(numbers, rewards, strict=True)
            ],
        }

    def said(*rewards: float) -> list[str]:
        return [sentence for sentence in advice(summary(*rewards)) if "by heart" in sentence]

    assert not said(0.4), "problems may be easier than the benchmark"
    assert not said(0.4, 0.55), "what the policy has learned shows on the benchmark too"
    (sentence,) = said(0.2, 0.3, 0.45)
    assert (
        "of iteration 3, 0.45 of the samples on them were correct, 0.30 on b; in iteration 1, 0.20 and 0.20" in sentence
    )
