"""Grading: whether a completion answers a problem. `Grader` is what the stages use."""

from components.shared.grading.answer import boxed_answers, committed_answer
from components.shared.grading.grader import HEDGED, TIMED_OUT, TRUNCATED, UNSCORABLE, Grader, GradingRow, Verdict
from components.shared.grading.settings import GradingSettings
from components.shared.grading.verifiers import check_verifier

__all__ = [
    "HEDGED",
    "TIMED_OUT",
    "TRUNCATED",
    "UNSCORABLE",
    "Grader",
    "GradingRow",
    "GradingSettings",
    "Verdict",
    "boxed_answers",
    "check_verifier",
    "committed_answer",
]
