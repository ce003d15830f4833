"""The stand-in's driver: the inputs of a task, and whether the cache has its result, as in KFP's source.

The cache key consists of the inputs (artifact IDs, parameter values), the outputs' names and types, image, command and
arguments, and the names of mounted volumes. A task with caching disabled has no key.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from tests.launch.stand_in.metadata import Execution, Metadata, Outputs


@dataclass
class Dag:
    """A running pipeline: its inputs, and what its tasks have produced so far."""

    spec: dict[str, Any]
    inputs: Outputs
    made: dict[str, Outputs] = field(default_factory=dict)

    def outputs(self) -> Outputs:
        """Returns the outputs of the pipeline."""
        found = Outputs()
        declared = self.spec.get("outputs", {})
        for key, output in declared.get("artifacts", {}).items():
            (selector,) = output["artifactSelectors"]
            found.artifacts[key] = self.made[selector["producerSubtask"]].artifacts[selector["outputArtifactKey"]]
        for key, output in declared.get("parameters", {}).items():
            source = output["valueFromParameter"]
            found.parameters[key] = self.made[source["producerSubtask"]].parameters[source["outputParameterKey"]]
        return found


@dataclass
class Driven:
    """A stage that its driver has processed."""

    task: dict[str, Any]
    component: dict[str, Any]
    execution: Execution
    fingerprint: str
    cached: bool
    inputs: Outputs
    folder: str = ""  # URI prefix of its outputs


def taken_in(task: dict[str, Any], dag: Dag) -> Outputs:
    """Returns the inputs of a task."""
    found = Outputs()
    for kind, into in (("Artifact", found.artifacts), ("Parameter", found.parameters)):
        outer: dict[str, Any] = getattr(dag.inputs, f"{kind.lower()}s")
        for key, source in task.get("inputs", {}).get(f"{kind.lower()}s", {}).items():
            if made := source.get(f"taskOutput{kind}"):
                of_task: dict[str, Any] = getattr(dag.made[made["producerTask"]], f"{kind.lower()}s")
                into[key] = of_task[made[f"output{kind}Key"]]
            elif (name := source.get(f"componentInput{kind}")) is not None:
                if name in outer:
                    into[key] = outer[name]
            else:
                into[key] = source["runtimeValue"]["constant"]
    return found


def drive_container(
    pipeline: dict[str, Any], platform: dict[str, Any], task: dict[str, Any], dag: Dag, metadata: Metadata
) -> Driven:
    """Does what the driver of a stage does.

    Raises:
        AlreadyExists: the stage takes the same artifact twice.
    """
    component = pipeline["components"][task["componentRef"]["name"]]
    label = component["executorLabel"]
    container = pipeline["deploymentSpec"]["executors"][label]["container"]
    inputs = taken_in(task, dag)
    key = ""
    if task.get("cachingOptions", {}).get("enableCache"):
        key = fingerprint(inputs, component, container, platform.get(label, {}))
    found = metadata.cached(key) if key else None
    execution = metadata.execution(list(inputs.artifacts.values()))
    if found:
        execution.outputs = found.outputs
    return Driven(task, component, execution, key, found is not None, inputs)


def fingerprint(inputs: Outputs, component: dict[str, Any], container: dict[str, Any], platform: dict[str, Any]) -> str:
    """Returns the cache key of a result."""
    outputs = component.get("outputDefinitions", {})
    parts = [
        inputs.artifacts,
        inputs.parameters,
        {name: each["artifactType"] for name, each in outputs.get("artifacts", {}).items()},
        {name: each["parameterType"] for name, each in outputs.get("parameters", {}).items()},
        [*container.get("command", []), *container.get("args", [])],
        container["image"],
        sorted(json.dumps(mount, sort_keys=True) for mount in platform.get("pvcMount", [])),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
