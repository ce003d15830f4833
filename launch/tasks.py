"""How a stage becomes a task of the pipeline: its image, resources, node pool, retries and secrets."""

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kfp import dsl, kubernetes

from components.shared.training.parallel import ONE_PROCESS, ParallelSettings
from components.shared.training.tracking import CREDENTIALS
from components.shared.training.train_job import NODE_QUEUE, NODE_RESOURCES, SHARED
from components.shared.training.trainjob_api import QUEUE_LABEL
from launch.images import image
from launch.pools import Pool, Pools
from launch.recipe import Recipe
from launch.store import StoreSettings

# The label of nodes and pods, and its value for each pool; the manifests use them too.
POOL_LABEL = "rloop.dev/pool"
LABEL_OF = {"cpu": "cpu", "training": "gpu-training", "inference": "gpu-inference"}
IMAGE_USER = 10001  # the images' user: images/packages.Dockerfile
# The pool that each stage runs on.
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
# These stages fail on the user's input, which a retry finds unchanged. (A lost pod is restarted all the same, by the
# level above.)
NEVER_RETRIED = ("preflight", "data_preparation")
PAUSE_SECONDS = 60  # before the first retry; doubled before each further one
NODE_WAIT_HOURS = 24  # how long an attempt may wait in its queue and for a node of its pool
# Stages that talk to the object store themselves, in addition to the artifacts that KFP downloads and uploads.
_USE_STORE = (
    "preflight",
    "data_preparation",
    "rl_exploration",
    "verification_filtering",
    "rft",
    "evaluation",
    "publishing",
)


class Nodes(NamedTuple):
    """The nodes that a pool's pods may run on: values, or outputs of preflight."""

    selector: Any
    tolerations: Any


@dataclass(frozen=True)
class Graph:
    """Adds the tasks of stages to the pipeline that is being built.

    Attributes:
        components: Component and display name of each task, by the task's name.
        recipe: The recipe, with the switches that are fixed when the pipeline is compiled.
        registry: Registry of the stages' images; empty for a local run.
        variant: Variant of the training stages' images, cuda or cpu; empty: cuda with a registry, else cpu.
        nodes: Nodes of each pool.
    """

    components: Mapping[str, tuple[Any, str]]
    recipe: Recipe
    registry: str
    variant: str
    nodes: Mapping[str, Nodes]

    def on(self, **nodes: Nodes) -> "Graph":
        """Returns the same graph with its pods on other nodes, given by pool."""
        return dataclasses.replace(self, nodes=nodes)

    def add(self, name: str, /, **inputs: Any) -> dict[str, Any]:
        """Adds the task `name` and returns its outputs.

        Args:
            name: A key of `components`.
            inputs: Inputs of the component; those that are None are left out.
        """
        component, display_name = self.components[name]
        recipe, stage = self.recipe, component.python_func.__name__
        task = named(component, name)(**{key: value for key, value in inputs.items() if value is not None})
        task.set_container_image(image(stage, self.registry, self.variant)).set_display_name(display_name)
        parallel = {"rl_exploration": recipe.rl.parallel, "rft": recipe.rft.parallel}.get(stage, ONE_PROCESS)
        caching = recipe.caching and stage != "preflight"  # which looks for new data each time
        place(task, stage, recipe.pools, self.nodes, caching, parallel)
        connect(task, stage, recipe.store)
        if stage in ("rl_exploration", "rft") and recipe.tracking.secret:
            keys = {CREDENTIALS[tracker]: CREDENTIALS[tracker] for tracker in recipe.tracking.report_to}
            kubernetes.use_secret_as_env(task, recipe.tracking.secret, keys)
        outputs: dict[str, Any] = task.outputs
        return outputs


def named(component: Any, name: str) -> Any:
    """Returns a copy of a component under another name, which KFP gives to its tasks."""
    clone = copy.copy(component)
    clone.component_spec = dataclasses.replace(component.component_spec, name=name)
    return clone


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
    nodes: Mapping[str, Nodes],
    caching: bool,
    parallel: ParallelSettings = ONE_PROCESS,
) -> None:
    """Sets a task's resources, nodes, time limit, retries, label and caching.

    Args:
        task: The stage's task.
        stage: The stage's name, as in `launch.images.STAGES`.
        pools: The recipe's `pools` section.
        nodes: Nodes of each pool.
        caching: Whether KFP may reuse the result of an earlier run.
        parallel: Parallelism of a training stage. With several nodes, the stage's own pod only copies files and waits:
            it requests what a pod of the CPU pool does, and its annotations say what the nodes request and where they
            queue. It does not queue itself: pods that wait for their nodes would hold the quota that the nodes need.
    """
    name = POOL_OF[stage]
    pool: Pool = getattr(pools, name)
    timeout_hours = pool.timeout_hours
    if parallel.nodes == 1:
        task.set_cpu_request(pool.cpu).set_memory_request(pool.memory).set_memory_limit(pool.memory)
        if pool.accelerators:
            task.set_accelerator_type(pool.accelerator).set_accelerator_limit(pool.accelerators)
        if pool.queue:
            kubernetes.add_pod_label(task, QUEUE_LABEL, pool.queue)
    else:
        waiting = pools.cpu
        task.set_cpu_request(waiting.cpu).set_memory_request(waiting.memory).set_memory_limit(waiting.memory)
        kubernetes.mount_pvc(task, parallel.volume, str(SHARED))
        kubernetes.add_pod_annotation(task, NODE_RESOURCES, json.dumps(_resources(pool)))
        if pool.queue:
            kubernetes.add_pod_annotation(task, NODE_QUEUE, pool.queue)
            timeout_hours += NODE_WAIT_HOURS  # the stage's pod runs while its nodes queue
    if pool.shared_memory:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=pool.shared_memory)
    kubernetes.add_node_selector_json(task, nodes[name].selector)
    kubernetes.add_toleration_json(task, nodes[name].tolerations)
    kubernetes.set_security_context(task, run_as_user=IMAGE_USER, run_as_non_root=True)
    kubernetes.set_timeout(task, round(timeout_hours * 3600))
    kubernetes.add_pod_label(task, POOL_LABEL, LABEL_OF[name])
    retries = 0 if stage in NEVER_RETRIED else pool.retries
    # Set even when it is 0: KFP's controller gives two retries to a task without a policy.
    task.set_retry(retries, f"{PAUSE_SECONDS}s", 2.0, f"{retry_seconds(retries, timeout_hours)}s")
    task.set_caching_options(caching)


def retry_seconds(retries: int, timeout_hours: float) -> int:
    """Returns the seconds that all attempts of a stage may take, with the pauses and the waits for a node.

    KFP passes it to Argo as the time, counted from the start of the first attempt, after which no attempt starts and
    running ones are killed. Argo's pauses double each time, without a limit.
    """
    pauses = PAUSE_SECONDS * ((1 << retries) - 1)
    return (retries + 1) * round((timeout_hours + NODE_WAIT_HOURS) * 3600) + pauses


def recipe_nodes(pools: Pools) -> dict[str, Nodes]:
    """Returns the nodes of each pool as the recipe gives them: for preflight, which hands them to the other stages."""
    return {name: Nodes(pool.node_selector, pool.tolerations) for name, pool in pools}


def _resources(pool: Pool) -> dict[str, dict[str, str]]:
    accelerators = {pool.accelerator: str(pool.accelerators)} if pool.accelerators else {}
    return {
        "requests": {"cpu": pool.cpu, "memory": pool.memory, **accelerators},
        "limits": {"memory": pool.memory, **accelerators},
    }
