"""Grading: decides whether a completion answers a problem. Stages use `Grader`."""

from components.shared.grading.answer import boxed_answers, committed_answer
from components.shared.grading.grader import (
    HEDGED,
    TIMED_OUT,
    TRUNCATED,
    UNSCORABLE,
    Grader,
    GradingRow,
    Verdict,
    reason_kind,
)
from components.shared.grading.settings import GradingSettings
from components.shared.grading.user_function import FAILED
from components.shared.grading.verifiers import check_verifier, is_user_function

__all__ = [
    "FAILED",
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
    "is_user_function",
    "reason_kind",
]
