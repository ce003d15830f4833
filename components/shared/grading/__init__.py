"""Grading: whether a completion answers a problem. `Grader` is what the stages use."""

from components.shared.grading.grader import Grader, GradingRow
from components.shared.grading.verifiers import check_verifier

__all__ = ["Grader", "GradingRow", "check_verifier"]
