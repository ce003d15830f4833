"""The stand-in's metadata store and cache: executions, artifacts by id, and which result stands for which inputs."""

from dataclasses import dataclass, field
from datetime import datetime


class AlreadyExists(Exception):
    """The store refuses what is there."""


@dataclass
class Outputs:
    """What an execution made: artifacts by id, values of parameters."""

    artifacts: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, object] = field(default_factory=dict)


@dataclass
class Execution:
    """One task that was driven."""

    id: int
    outputs: Outputs = field(default_factory=Outputs)


@dataclass
class CacheEntry:
    """A launcher's note that an execution ended well: KFP's API shows it as a row without a name."""

    task_id: str
    run_id: str
    fingerprint: str
    execution: Execution
    started: datetime
    ended: datetime


@dataclass
class Metadata:
    """What all runs share."""

    executions: int = 0
    artifacts: int = 0
    entries: list[CacheEntry] = field(default_factory=list)
    uris: dict[str, int] = field(default_factory=dict)  # of imported artifacts
    places: dict[int, str] = field(default_factory=dict)  # the URI of each artifact

    def execution(self, inputs: list[int]) -> Execution:
        """A new execution that takes artifacts.

        Raises:
            AlreadyExists: it takes one artifact under two names.
        """
        self.executions += 1
        for artifact in inputs:
            if inputs.count(artifact) > 1:
                raise AlreadyExists(
                    f"rpc error: code = AlreadyExists desc = Given event already exists: artifact_id: {artifact}"
                )
        return Execution(self.executions)

    def artifact(self, uri: str) -> int:
        """The id of a new artifact."""
        self.artifacts += 1
        self.places[self.artifacts] = uri
        return self.artifacts

    def imported(self, uri: str) -> int:
        """The id of what an importer brings in: the same for the same URI."""
        if uri not in self.uris:
            self.uris[uri] = self.artifact(uri)
        return self.uris[uri]

    def cached(self, fingerprint: str) -> Execution | None:
        """The newest result for a fingerprint."""
        return next((each.execution for each in reversed(self.entries) if each.fingerprint == fingerprint), None)
