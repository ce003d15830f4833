"""The recipe's `pools` section: the resources of the stages' pods, and the nodes they run on."""

import re
from typing import Any

from pydantic import Field, field_validator

from components.shared.settings import Settings


class Pool(Settings):
    """The pods of one group of stages. Node selector and tolerations are defaults of the pipeline parameter `pools`."""

    cpu: str = Field("1", description="CPU request of a pod, such as 4 or 500m.")
    memory: str = Field("4Gi", description="Memory request and limit of a pod.")
    accelerator: str = Field("nvidia.com/gpu", description="Resource name of the pool's accelerators.")
    accelerators: int = Field(0, ge=0, description="Number of accelerators per pod.")
    accelerator_memory_gib: float | None = Field(
        None, gt=0, description="Memory of one accelerator in GiB, which preflight compares with its estimate."
    )
    shared_memory: str | None = Field(None, description="Size of /dev/shm, such as 16Gi; null: the node's default.")
    node_selector: dict[str, str] = Field({}, description="Node selector of the pods; empty: any node.")
    tolerations: list[dict[str, str]] = Field([], description="Tolerations of the pods, for tainted nodes.")
    queue: str | None = Field(
        None,
        description="Kueue LocalQueue of the run's namespace that admits the pods, or the TrainJob of a stage that "
        "trains on several nodes; null: none.",
    )
    timeout_hours: float = Field(24.0, gt=0, description="Time limit of a pod in hours.")
    retries: int = Field(
        3,
        ge=0,
        le=10,
        description="Retries after a failure, such as a preempted spot node. A stage that fails by itself is retried "
        "only if the cluster's controller allows it (docs/cluster.md). Preflight and data preparation are never "
        "retried.",
    )

    @field_validator("cpu", "memory", "shared_memory", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value  # cpu: 4

    @field_validator("cpu")
    @classmethod
    def _is_cpu(cls, value: str) -> str:
        if not re.fullmatch(r"\d+m|\d+(\.\d+)?", value) or not float(value.rstrip("m")):
            raise ValueError("expected a number of cores such as 4 or 0.5, or millicores such as 500m")
        return value

    @field_validator("queue")
    @classmethod
    def _is_queue(cls, value: str | None) -> str | None:
        # A DNS subdomain, as Kueue's webhook checks, which is the value of a label.
        name = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
        if value is not None and (len(value) > 63 or not re.fullmatch(rf"{name}(\.{name})*", value)):
            raise ValueError(
                "expected the name of a LocalQueue such as team-a: at most 63 lower-case letters, digits, hyphens and "
                "dots, with a letter or a digit at either end"
            )
        return value

    @field_validator("memory", "shared_memory")
    @classmethod
    def _is_memory(cls, value: str | None) -> str | None:
        match = re.fullmatch(r"(\d+)(Ki|Mi|Gi|Ti|Pi|M|G|T|P)?", value or "1Gi")
        if not match or not int(match[1]) or (not match[2] and int(match[1]) < 1 << 20):
            raise ValueError("expected a size as Kubernetes writes it, such as 64Gi or 500Mi, without a space or a B")
        return value


class Pools(Settings):
    """The recipe's `pools` section."""

    cpu: Pool = Field(Pool(), description="Data preparation, harvesting, filtering and reports.")
    training: Pool = Field(Pool(), description="RL exploration and RFT.")
    inference: Pool = Field(Pool(), description="Evaluation.")
