"""The recipe's `store` section: where progress is saved, and where a run's results are published."""

import os
from collections.abc import Mapping
from itertools import combinations
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from components.shared.errors import InputError
from components.shared.settings import Settings


class StoreSettings(Settings):
    """The object store. Credentials come from the environment or, on a cluster, from a secret; never from a recipe."""

    checkpoint_uri: str = Field(
        "", description="Where long stages save their progress: s3://BUCKET/PREFIX or a folder; empty: nowhere."
    )
    minutes: float = Field(
        10.0,
        ge=0,
        description="Minutes between checkpoints of exploration and RFT: the most work that a killed pod repeats.",
    )
    keep_days: float = Field(14.0, gt=0, description="Days without a change after which saved progress is deleted.")
    publish_uri: str = Field(
        "",
        description="Where a run's policy, trajectories and report are published; empty: nowhere. Fixed when the "
        "pipeline is compiled, like secret and endpoint.",
    )
    cache_generation: int = Field(
        0,
        ge=0,
        description="Increase this when earlier artifacts are gone or have moved, for example to another server under "
        "the same bucket name, so that no stage takes them from the cache. Not needed when the bucket's name changes.",
    )
    secret: str = Field(
        "",
        description="Kubernetes secret with accesskey and secretkey for the stages' pods; empty: their account's role.",
    )
    endpoint: str = Field("", description="URL of the object store for the stages' pods; empty: AWS.")

    @model_validator(mode="after")
    def _places_are_apart(self) -> Self:
        problem = overlap({"store.checkpoint_uri": self.checkpoint_uri, "store.publish_uri": self.publish_uri})
        if problem:
            raise ValueError(problem)
        return self


def check_apart(places: Mapping[str, str]) -> None:
    """Raises InputError if two of these locations, given by name, are the same or one contains the other."""
    if problem := overlap(places):
        raise InputError(problem)


def overlap(places: Mapping[str, str]) -> str | None:
    """Returns a message about two locations that are the same or nested, or None. Empty URIs are ignored."""
    given = [(name, uri, _parts(uri)) for name, uri in places.items() if uri]
    for (one, uri, parts), (other, other_uri, other_parts) in combinations(given, 2):
        shorter = min(len(parts), len(other_parts))
        if parts[:shorter] == other_parts[:shorter]:
            return f"{one} ({uri}) and {other} ({other_uri}) must not overlap: give each a prefix of its own"
    return None


def _parts(uri: str) -> list[str]:
    """Returns the parts of a location's path, from the bucket or the root of the file system."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return ["file", *(part for part in os.path.realpath(parts.path if parts.scheme else uri).split("/") if part)]
    return ["s3", parts.netloc, *(part for part in parts.path.split("/") if part)]
