"""The stand-in's metadata store and cache: executions, artifact IDs, and cached results by fingerprint."""

from dataclasses import dataclass, field
from datetime import datetime


class AlreadyExists(Exception):
    """The entry already exists in the store."""


@dataclass
class Outputs:
    """What an execution produced: artifact IDs and parameter values."""

    artifacts: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, object] = field(default_factory=dict)


@dataclass
class Execution:
    """One execution of a task."""

    id: int
    outputs: Outputs = field(default_factory=Outputs)


@dataclass
class CacheEntry:
    """A launcher's record of a successful execution; KFP's API reports it as a row without a name."""

    task_id: str
    run_id: str
    fingerprint: str
    execution: Execution
    started: datetime
    ended: datetime


@dataclass
class Metadata:
    """The store that all runs share."""

    executions: int = 0
    artifacts: int = 0
    entries: list[CacheEntry] = field(default_factory=list)
    uris: dict[str, int] = field(default_factory=dict)  # of imported artifacts
    places: dict[int, str] = field(default_factory=dict)  # the URI of each artifact

    def execution(self, inputs: list[int]) -> Execution:
        """Returns a new execution with input artifacts.

        Raises:
            AlreadyExists: it takes the same artifact under two names.
        """
        self.executions += 1
        for artifact in inputs:
            if inputs.count(artifact) > 1:
                raise AlreadyExists(
                    f"rpc error: code = AlreadyExists desc = Given event already exists: artifact_id: {artifact}"
                )
        return Execution(self.executions)

    def artifact(self, uri: str) -> int:
        """Returns the ID of a new artifact."""
        self.artifacts += 1
        self.places[self.artifacts] = uri
        return self.artifacts

    def imported(self, uri: str) -> int:
        """Returns the ID of an imported artifact: the same for the same URI."""
        if uri not in self.uris:
            self.uris[uri] = self.artifact(uri)
        return self.uris[uri]

    def cached(self, fingerprint: str) -> Execution | None:
        """Returns the newest result for a fingerprint, or None."""
        return next((each.execution for each in reversed(self.entries) if each.fingerprint == fingerprint), None)
