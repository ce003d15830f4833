"""The compiled pipeline: how it is made small, how it is checked, and how other modules read it.

A cluster stores the complete workflow in one object of at most 1 MiB, which repeats several times everything that a
stage carries. So the output of KFP's compiler is reduced: a component names its module instead of carrying its source,
only the run's own parameters have descriptions, outputs and inputs that nothing uses are dropped, and equal components
are merged.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from components.shared.errors import InputError
from launch.compiled_comment import comment

# KFP's runtime loads the component from a file; here that file is one import.
_COMMAND = (
    'f=$(mktemp -d)/c.py; echo "$0" >$f; export _KFP_RUNTIME=true; '
    'exec python3 -m kfp.dsl.executor_main --component_module_path $f "$@"'
)
# Outputs that exploration and harvesting write only if another stage uses them.
_OPTIONAL_OUTPUTS = {"rl_exploration": ("snapshots", "training_state"), "rollout_harvesting": ("report",)}


def read_compiled(compiled: Path) -> list[dict[str, Any]]:
    """Returns the documents of a compiled pipeline: its specification, then the platform's part."""
    # The C parser: the Python one takes seconds for a pipeline of many iterations.
    return list(yaml.load_all(compiled.read_text(), Loader=yaml.CSafeLoader))


class Leaf(NamedTuple):
    """A task that is not a nested pipeline: a stage or an importer."""

    path: str  # such as `iteration-2/rft`; kfp names the first iteration `iteration`, which is `iteration-1` here
    tasks: list[dict[str, Any]]  # specs of the enclosing nested pipelines' tasks, then its own
    is_stage: bool  # or an importer, which has neither a driver nor a container


def leaves(specification: dict[str, Any]) -> Iterator[Leaf]:
    """Yields a pipeline's stages and importers in an order in which they can run."""
    pipeline = specification.get("pipeline_spec", specification)
    executors = pipeline["deploymentSpec"]["executors"]

    def visit(dag: dict[str, Any], prefix: str, enclosing: list[dict[str, Any]]) -> Iterator[Leaf]:
        waiting = dict(sorted(dag["tasks"].items()))
        while waiting:
            ready = [n for n, task in waiting.items() if not waiting.keys() & set(task.get("dependentTasks", ()))]
            for name in ready:
                task = waiting.pop(name)
                component = pipeline["components"][task["componentRef"]["name"]]
                if inner := component.get("dag"):
                    path = f"{prefix}{'iteration-1' if name == 'iteration' else name}/"
                    yield from visit(inner, path, [*enclosing, task])
                else:
                    is_stage = "container" in executors[component["executorLabel"]]
                    yield Leaf(prefix + name, [*enclosing, task], is_stage)

    return visit(pipeline["root"]["dag"], "", [])


def stages_of(specification: dict[str, Any]) -> Iterator[Leaf]:
    """Yields a pipeline's stages in an order in which they can run; importers do not count."""
    return (leaf for leaf in leaves(specification) if leaf.is_stage)


def stage_paths(specification: dict[str, Any]) -> list[str]:
    """Returns the paths of a pipeline's stages, such as `iteration-2/rft`; importers do not count."""
    return [stage.path for stage in stages_of(specification)]


def reduce_compiled(compiled: Path) -> None:
    """Reduces a file written by KFP's compiler as this module describes; descriptions go to a comment at its top."""
    header = [line for line in compiled.read_text().splitlines() if line.startswith("#")]
    specification, *platforms = read_compiled(compiled)
    explained = comment(header, specification)
    pods = {}
    for platform in platforms:
        pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for pod in pods.values():
        for secret in pod.get("secretAsEnv", []):
            secret.pop("secretName", None)  # repeated as a parameter
    _name_modules(specification)
    _drop_descriptions(specification)
    _drop_outputs(specification)
    _merge_executors(specification, pods)
    _merge_components(specification)
    _drop_from_tasks(specification)
    _drop_inputs(specification)
    check_single_use(specification)
    compiled.write_text("\n".join([*explained, _as_yaml([specification, *platforms])]))


class _Line(dict[str, Any]):
    """A mapping written on one line."""


class _Dumper(yaml.CSafeDumper):
    """Writes each input of a task on one line."""


_Dumper.add_representer(
    _Line, lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=True)
)


def _as_yaml(documents: list[dict[str, Any]]) -> str:
    for _, dag in _dags(documents[0]):
        for task in dag["tasks"].values():
            for kind, inputs in task.get("inputs", {}).items():
                task["inputs"][kind] = {name: _Line(source) for name, source in inputs.items()}
    return str(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=True, default_flow_style=None, width=200))


def _name_modules(specification: dict[str, Any]) -> None:
    for executor in specification["deploymentSpec"]["executors"].values():
        if container := executor.get("container"):
            function = _function(executor)
            for outdated in ("cpuRequest", "cpuLimit", "memoryRequest", "memoryLimit"):  # repeated as text
                container.get("resources", {}).pop(outdated, None)
            container["command"] = ["sh", "-ec", _COMMAND, f"from components.{function}.component import {function}"]


def _function(executor: dict[str, Any]) -> str:
    """Returns the name of an executor's component function, which is that of its stage's folder."""
    arguments = executor["container"]["args"]
    return str(arguments[arguments.index("--function_to_execute") + 1])


def _drop_descriptions(specification: dict[str, Any]) -> None:
    for component in specification["components"].values():
        for definitions in (component.get("inputDefinitions", {}), component.get("outputDefinitions", {})):
            for kind in definitions.values():
                for definition in kind.values():
                    definition.pop("description", None)
                    definition.get("artifactType", {}).pop("schemaVersion", None)


def _drop_outputs(specification: dict[str, Any]) -> None:
    taken = set()
    for _, dag in _dags(specification):
        for source in _artifact_sources(dag):
            if "producerTask" in source:
                taken.add((dag["tasks"][source["producerTask"]]["componentRef"]["name"], source["outputArtifactKey"]))
    executors = specification["deploymentSpec"]["executors"]
    for name, component in specification["components"].items():
        executor = executors.get(component.get("executorLabel"), {})
        for output in _OPTIONAL_OUTPUTS.get(_function(executor), ()) if "container" in executor else ():
            if (name, output) not in taken:
                component["outputDefinitions"]["artifacts"].pop(output, None)


def _drop_from_tasks(specification: dict[str, Any]) -> None:
    """Drops caching options of nested pipelines, and dependencies that follow from another dependency."""
    for _, dag in _dags(specification):
        tasks, before = dag["tasks"], dict[str, set[str]]()  # what runs before each task
        while len(before) < len(tasks):
            for name, task in tasks.items():
                needs = task.get("dependentTasks", [])
                if name not in before and before.keys() >= set(needs):
                    before[name] = set(needs).union(*(before[other] for other in needs))
        for task in tasks.values():
            if needs := task.get("dependentTasks"):
                task["dependentTasks"] = [n for n in needs if not any(n in before[other] for other in needs)]
            if "dag" in specification["components"][task["componentRef"]["name"]]:
                task.pop("cachingOptions", None)  # only stages are cached


def _drop_inputs(specification: dict[str, Any]) -> None:
    """Drops the optional inputs of nested pipelines that no task sets."""
    given: dict[str, set[str]] = {}
    for _, dag in _dags(specification):
        for task in dag["tasks"].values():
            name = task["componentRef"]["name"]
            given.setdefault(name, set()).update(task.get("inputs", {}).get("artifacts", {}))
    for name, component in specification["components"].items():
        if "dag" in component:
            artifacts = component["inputDefinitions"]["artifacts"]
            for key in artifacts.keys() - given[name]:
                del artifacts[key]


def _artifact_sources(dag: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yields the task outputs that a DAG's tasks and outputs use."""
    for task in dag["tasks"].values():
        for source in task.get("inputs", {}).get("artifacts", {}).values():
            yield source.get("taskOutputArtifact", {})
    for output in dag.get("outputs", {}).get("artifacts", {}).values():
        for selector in output["artifactSelectors"]:
            yield {"producerTask": selector["producerSubtask"], "outputArtifactKey": selector["outputArtifactKey"]}


def _dags(specification: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields every DAG with its component's name; the root's is `root`."""
    yield "root", specification["root"]["dag"]
    for name, component in specification["components"].items():
        if "dag" in component:
            yield name, component["dag"]


def _merge_executors(specification: dict[str, Any], pods: dict[str, Any]) -> None:
    executors = specification["deploymentSpec"]["executors"]
    labels = _merged(
        {label: [executor, pods.get(label)] for label, executor in executors.items()},
        lambda label: f"exec-{_stage_name(executors[label])}",
    )
    for component in specification["components"].values():
        if "executorLabel" in component:
            component["executorLabel"] = labels[component["executorLabel"]]
    for group in (executors, pods):
        renamed = {labels[label]: value for label, value in group.items()}
        group.clear()
        group.update(renamed)


def _merge_components(specification: dict[str, Any]) -> None:
    """Merges equal components: stages first, then the nested pipelines, which are equal once their stages are."""
    components, executors = specification["components"], specification["deploymentSpec"]["executors"]
    stages = {name: component for name, component in components.items() if "executorLabel" in component}
    names = _merged(stages, lambda name: f"comp-{_stage_name(executors[stages[name]['executorLabel']])}")
    _rename_components(specification, names)
    nested = {name: component for name, component in specification["components"].items() if "dag" in component}
    _rename_components(specification, _merged(nested, lambda name: "comp-iteration"))


def _stage_name(executor: dict[str, Any]) -> str:
    return _function(executor).replace("_", "-") if "container" in executor else "importer"


def _merged(values: dict[str, Any], name_of: Any) -> dict[str, str]:
    """Returns new names, the same for equal values: NAME, and NAME-2 and so on for different values of that name."""
    names: dict[str, str] = {}
    by_content: dict[str, str] = {}
    given: dict[str, int] = {}
    for old in sorted(values, key=_natural):
        content = json.dumps(values[old], sort_keys=True)
        if content not in by_content:
            name = name_of(old)
            given[name] = given.get(name, 0) + 1
            by_content[content] = name if given[name] == 1 else f"{name}-{given[name]}"
        names[old] = by_content[content]
    return names


def _natural(name: str) -> tuple[str, int]:
    """Orders `comp-rft-10` after `comp-rft-9`."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isdigit() else (name, 0)


def _rename_components(specification: dict[str, Any], names: dict[str, str]) -> None:
    components = specification["components"]
    specification["components"] = {names.get(name, name): component for name, component in components.items()}
    for _, dag in _dags(specification):
        for task in dag["tasks"].values():
            task["componentRef"]["name"] = names.get(task["componentRef"]["name"], task["componentRef"]["name"])


def check_single_use(specification: dict[str, Any]) -> None:
    """Checks that no task takes one artifact as two inputs, which the metadata store of a cluster refuses.

    Args:
        specification: Specification of a compiled pipeline.

    Raises:
        InputError: A task does; the message names it, both inputs and the artifact.
    """
    components = specification["components"]

    def visit(dag: dict[str, Any], path: str, given: dict[str, str]) -> None:
        """Follows artifacts into the tasks of a DAG; `given` maps the DAG's inputs to the artifacts behind them."""
        for name, task in sorted(dag["tasks"].items()):
            inputs = {
                key: _origin(source, dag, components, path, given)
                for key, source in task.get("inputs", {}).get("artifacts", {}).items()
            }
            seen: dict[str, str] = {}
            for key, origin in inputs.items():
                if origin in seen:
                    raise InputError(
                        f"the pipeline cannot run: {path}{name} takes the artifact {origin} both as {seen[origin]} and "
                        f"as {key}, which Kubeflow's metadata store refuses"
                    )
                seen[origin] = key
            if inner := components[task["componentRef"]["name"]].get("dag"):
                visit(inner, f"{path}{name}/", inputs)

    visit(specification["root"]["dag"], "", {})


def _origin(
    source: dict[str, Any], dag: dict[str, Any], components: dict[str, Any], path: str, given: dict[str, str]
) -> str:
    """Returns the artifact behind a task's input: `path/of/the/producer.output`."""
    if key := source.get("componentInputArtifact"):
        return given[key]
    output = source["taskOutputArtifact"]
    task, key = output["producerTask"], output["outputArtifactKey"]
    inner = components[dag["tasks"][task]["componentRef"]["name"]].get("dag")
    while inner:
        path = f"{path}{task}/"
        (selector,) = inner["outputs"]["artifacts"][key]["artifactSelectors"]
        task, key = selector["producerSubtask"], selector["outputArtifactKey"]
        inner = components[inner["tasks"][task]["componentRef"]["name"]].get("dag")
    return f"{path}{task}.{key}"
