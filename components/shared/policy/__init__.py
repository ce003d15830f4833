"""A policy: a Hugging Face model folder, what is read from it, how it is checked and how it is saved."""

from components.shared.policy.policy import Policy

__all__ = ["Policy"]
