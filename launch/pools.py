"""Node pools: what the pods of a stage family ask for, and where they run."""

import json
import re
from typing import Any

from kfp import dsl, kubernetes
from pydantic import Field, field_validator

from components.shared.settings import Settings
from components.shared.training.parallel import ONE_PROCESS, ParallelSettings
from components.shared.training.train_job import NODE_RESOURCES, SHARED
from launch.store import StoreSettings

# The label of nodes and pods, and its value for each pool; the manifests use them too.
POOL_LABEL = "rloop.dev/pool"
LABEL_OF = {"cpu": "cpu", "training": "gpu-training", "inference": "gpu-inference"}
IMAGE_USER = 10001  # of the images: images/packages.Dockerfile
# Stages by the pool they run on.
POOL_OF = {
    "preflight": "cpu",
    "data_preparation": "cpu",
    "rl_exploration": "training",
    "rollout_harvesting": "cpu",
    "verification_filtering": "cpu",
    "rft": "training",
    "evaluation": "inference",
    "report": "cpu",
    "publishing": "cpu",
}


# What these stages stumble over is the user's input, which another attempt finds as it was. (A pod that is lost is
# started again all the same, by the level above.)
NEVER_RETRIED = ("preflight", "data_preparation")
PAUSE_SECONDS = 60  # before the second attempt; twice as long before each further one
NODE_WAIT_HOURS = 24  # for which an attempt may wait for a node of its pool


class Pool(Settings):
    """One family of stages. Selectors and tolerations are defaults of the pipeline parameter `pools`."""

    cpu: str = Field("1", description="CPU request of a pod, such as 4 or 500m.")
    memory: str = Field("4Gi", description="Memory request and limit of a pod.")
    accelerator: str = Field("nvidia.com/gpu", description="Resource name of the pool's accelerators.")
    accelerators: int = Field(0, ge=0, description="Accelerators of a pod.")
    accelerator_memory_gib: float | None = Field(
        None, gt=0, description="Memory of one accelerator; preflight compares its estimate with it."
    )
    shared_memory: str | None = Field(None, description="Size of /dev/shm, such as 16Gi; the node's default if null.")
    node_selector: dict[str, str] = Field({}, description="Labels that a node of the pool has; empty: any node.")
    tolerations: list[dict[str, str]] = Field([], description="Taints of the pool's nodes that pods accept.")
    timeout_hours: float = Field(24.0, gt=0, description="A pod that runs for longer is stopped.")
    retries: int = Field(
        3,
        ge=0,
        le=10,
        description="Further attempts after a failure, such as a spot node taken back; of a stage that fails by itself "
        "only where the cluster's controller allows it (docs/cluster.md). Preflight and data preparation have none.",
    )

    @field_validator("cpu", "memory", "shared_memory", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value  # cpu: 4

    @field_validator("cpu")
    @classmethod
    def _is_cpu(cls, value: str) -> str:
        if not re.fullmatch(r"\d+m|\d+(\.\d+)?", value) or not float(value.rstrip("m")):
            raise ValueError("expected a number of cores such as 4 or 0.5, or thousandths such as 500m")
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

    cpu: Pool = Field(Pool(), description="Preparing, harvesting, filtering, reporting.")
    training: Pool = Field(Pool(), description="RL exploration and RFT.")
    inference: Pool = Field(Pool(), description="Evaluation.")


# Stages that talk to the object store themselves, besides what KFP brings them and takes away.
_USE_STORE = (
    "preflight",
    "data_preparation",
    "rl_exploration",
    "verification_filtering",
    "rft",
    "evaluation",
    "publishing",
)


def connect(task: dsl.PipelineTask, stage: str, store: StoreSettings) -> None:
    """Gives a stage's pod the object store's address, and its keys by reference to a secret."""
    if stage not in _USE_STORE:
        return
    if store.endpoint:
        task.set_env_variable("AWS_ENDPOINT_URL_S3", store.endpoint)
    if store.secret:
        keys = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
        kubernetes.use_secret_as_env(task, store.secret, keys)


def place(
    task: dsl.PipelineTask,
    stage: str,
    pools: Pools,
    parameters: dict[str, Any],
    caching: bool,
    parallel: ParallelSettings = ONE_PROCESS,
) -> None:
    """Gives a stage's task its resources, its place, its retries and its labels.

    Args:
        task: of the stage.
        stage: its name, as in `launch.images.STAGES`.
        pools: the recipe's section.
        parameters: `POOL_nodes` and `POOL_taints`, as values or as what preflight gives.
        caching: whether KFP may take the result of an earlier run.
        parallel: of a training stage. Where several nodes train, the stage's own pod only copies and waits: it asks for
            what a pod of the CPU pool does, and carries what the nodes ask for.
    """
    name = POOL_OF[stage]
    pool: Pool = getattr(pools, name)
    if parallel.nodes == 1:
        task.set_cpu_request(pool.cpu).set_memory_request(pool.memory).set_memory_limit(pool.memory)
        if pool.accelerators:
            task.set_accelerator_type(pool.accelerator).set_accelerator_limit(pool.accelerators)
    else:
        waits = pools.cpu
        task.set_cpu_request(waits.cpu).set_memory_request(waits.memory).set_memory_limit(waits.memory)
        kubernetes.mount_pvc(task, parallel.volume, str(SHARED))
        kubernetes.add_pod_annotation(task, NODE_RESOURCES, json.dumps(_resources(pool)))
    if pool.shared_memory:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=pool.shared_memory)
    kubernetes.add_node_selector_json(task, parameters[f"{name}_nodes"])
    kubernetes.add_toleration_json(task, parameters[f"{name}_taints"])
    kubernetes.set_security_context(task, run_as_user=IMAGE_USER, run_as_non_root=True)
    kubernetes.set_timeout(task, round(pool.timeout_hours * 3600))
    kubernetes.add_pod_label(task, POOL_LABEL, LABEL_OF[name])
    retries = 0 if stage in NEVER_RETRIED else pool.retries
    # Said even where there are none: a task that says nothing gets the two that KFP's controller gives by default.
    task.set_retry(retries, f"{PAUSE_SECONDS}s", 2.0, f"{retry_seconds(retries, pool.timeout_hours)}s")
    task.set_caching_options(caching)


def retry_seconds(retries: int, timeout_hours: float) -> int:
    """Seconds in which all attempts of a stage fit, with the pauses and the waits for a node between them.

    KFP hands it to Argo as the time after which no attempt begins and those that run are killed, counted from the
    start of the first one. Argo's pauses double each time, without a limit.
    """
    pauses = PAUSE_SECONDS * ((1 << retries) - 1)
    return (retries + 1) * round((timeout_hours + NODE_WAIT_HOURS) * 3600) + pauses


def pool_parameters(pools: Pools) -> dict[str, Any]:
    """A recipe's `POOL_nodes` and `POOL_taints`, as values: for preflight, which gives them to others."""
    values: dict[str, Any] = {}
    for name, pool in pools:
        values |= {f"{name}_nodes": pool.node_selector, f"{name}_taints": pool.tolerations}
    return values


def _resources(pool: Pool) -> dict[str, dict[str, str]]:
    accelerators = {pool.accelerator: str(pool.accelerators)} if pool.accelerators else {}
    return {
        "requests": {"cpu": pool.cpu, "memory": pool.memory, **accelerators},
        "limits": {"memory": pool.memory, **accelerators},
    }
