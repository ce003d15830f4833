"""RLoop post-training as a Kubeflow Pipeline: the graph.

A run checks its inputs, prepares the data, evaluates the base policy and goes through N iterations:

    preflight > data preparation > evaluation of the base policy > iteration 1 > ... > iteration N

Each iteration is a nested pipeline that hands its policy to the next one:

    RL exploration > rollout harvesting > verification filtering > RFT of the iteration's initial policy
    > evaluation of the explored and of the fine-tuned policy > report > publishing

For a comparison with vanilla RL, each iteration from the second on also extends one long RL run by the same number of
steps; the first iteration's exploration is the beginning of that run. Iterations are unrolled when the pipeline is
compiled, because KFP has no loop that carries state.

A run that continues another one imports that run's last policy, best policy, results and so on from URIs that are
pipeline parameters. Its iterations are numbered from there, and it does not evaluate the base policy.

`python pipeline.py --help` lists the commands, which are in launch/cli.py.
"""

from pathlib import Path
from typing import Any, NamedTuple

from kfp import compiler, dsl

from components.data_preparation.component import data_preparation
from components.evaluation.component import evaluation
from components.preflight.component import preflight
from components.preflight.resolve import POOLS, READ_BY
from components.publishing.component import publishing
from components.report.component import report
from components.rft.component import rft
from components.rl_exploration.component import rl_exploration
from components.rollout_harvesting.component import rollout_harvesting
from components.verification_filtering.component import verification_filtering
from launch.cli import command_line
from launch.compiled import reduce_compiled
from launch.kubeflow.cluster import PIPELINE_NAME
from launch.parameters import carried_over, with_parameters
from launch.recipe import Recipe
from launch.tasks import Graph, Nodes, named, recipe_nodes

# Component and display name of each task.
TASKS = {
    "preflight": (preflight, "Preflight"),
    "data-preparation": (data_preparation, "Data preparation"),
    "evaluation-base": (evaluation, "Evaluation: base policy"),
    "rl-exploration": (rl_exploration, "RL exploration"),
    "rollout-harvesting": (rollout_harvesting, "Rollout harvesting"),
    "verification-filtering": (verification_filtering, "Verification filtering"),
    "rft": (rft, "RFT"),
    "evaluation-explored": (evaluation, "Evaluation: explored policy"),
    "evaluation-rloop": (evaluation, "Evaluation: rloop policy"),
    "vanilla-rl": (rl_exploration, "Vanilla RL"),
    "vanilla-harvesting": (rollout_harvesting, "Rollout harvesting: vanilla RL"),
    "evaluation-vanilla": (evaluation, "Evaluation: vanilla policy"),
    "report": (report, "Report"),
    "publishing": (publishing, "Publishing"),
}


class Carried(NamedTuple):
    """An artifact that an iteration hands to the next: its type, its names as an output and as an input, its title."""

    kind: type
    output: str
    input: str
    title: str


CARRIED = {
    "policy": Carried(dsl.Model, "rloop_policy", "policy", "Policy"),
    "best_policy": Carried(dsl.Model, "best_policy", "best_policy", "Best policy"),
    "results": Carried(dsl.Artifact, "results", "results", "Results"),
    "vanilla_state": Carried(dsl.Artifact, "vanilla_state", "vanilla_state", "State of vanilla RL"),
    "experts": Carried(dsl.Dataset, "experts", "earlier_experts", "Experts"),
}
# Outputs of preflight that every iteration takes as they are: its stages' settings, and the nodes of their pods.
FROM_PREFLIGHT = [f"{stage}_settings" for stage in READ_BY if stage != "preparation"]
FROM_PREFLIGHT += [f"{pool}_{what}" for pool in POOLS for what in ("nodes", "taints")]


def iteration_pipeline(graph: Graph, first: bool) -> Any:
    """Returns the nested pipeline of an iteration.

    Args:
        graph: Adds the tasks.
        first: Whether it is the first iteration, which starts from the base policy and reports on it.
    """
    recipe = graph.recipe
    handed_on = {CARRIED[name].output: CARRIED[name].kind for name in carried_over(recipe)}
    Outputs = NamedTuple("Outputs", list(handed_on.items()))  # type: ignore[misc]

    @dsl.pipeline(name="iteration", display_name="RLoop iteration")
    def rloop_iteration(
        iteration: int,
        exploration_settings: dict,
        filtering_settings: dict,
        rft_settings: dict,
        evaluation_settings: dict,
        report_settings: dict,
        cpu_nodes: dict,
        cpu_taints: list,
        training_nodes: dict,
        training_taints: list,
        inference_nodes: dict,
        inference_taints: list,
        policy: dsl.Input[dsl.Model],
        problems: dsl.Input[dsl.Dataset],
        benchmark_problems: dsl.Input[dsl.Dataset],
        results: dsl.Input[dsl.Artifact],
        base_evaluation: dsl.Input[dsl.Artifact] = None,
        base_policy: dsl.Input[dsl.Model] = None,
        best_policy: dsl.Input[dsl.Model] = None,
        vanilla_state: dsl.Input[dsl.Artifact] = None,
        earlier_experts: dsl.Input[dsl.Dataset] = None,
    ) -> Outputs:  # type: ignore[valid-type]
        add = graph.on(
            cpu=Nodes(cpu_nodes, cpu_taints),
            training=Nodes(training_nodes, training_taints),
            inference=Nodes(inference_nodes, inference_taints),
        ).add

        def explore(task: str, **inputs: Any) -> dict[str, Any]:
            made = add(task, problems=problems, settings=exploration_settings, **inputs)
            return made if recipe.rl.snapshot_every else {**made, "snapshots": None}

        def evaluate(kind: str, policy: Any, snapshots: Any = None, initial_policy: Any = None) -> Any:
            inputs = {"benchmark_problems": benchmark_problems, "settings": evaluation_settings}
            inputs |= {"snapshots": snapshots, "initial_policy": initial_policy} if snapshots else {}
            return add(f"evaluation-{kind}", policy=policy, kind=kind, iteration=iteration, **inputs)["evaluation"]

        explored = explore("rl-exploration", policy=policy, iteration=iteration, segment=1)
        harvested = add("rollout-harvesting", rollouts=explored["rollouts"])
        filtered = add(
            "verification-filtering",
            trajectories=harvested["trajectories"],
            problems=problems,
            earlier_experts=None if first or recipe.experts_from != "all" else earlier_experts,
            settings=filtering_settings,
        )
        start = {"initial": policy, "explored": explored["explored_policy"], "base": policy if first else base_policy}
        fine_tuned = add(
            "rft",
            policy=start[recipe.rft_from],
            experts=filtered["experts"],
            iteration=iteration,
            settings=rft_settings,
        )
        to_report = {
            "explored_policy": explored["explored_policy"],
            "rloop_policy": fine_tuned["rloop_policy"],
            "explored_evaluation": evaluate("explored", explored["explored_policy"], explored["snapshots"], policy),
            "rloop_evaluation": evaluate("rloop", fine_tuned["rloop_policy"]),
            "rft_log": fine_tuned["log"],
            "base_evaluation": base_evaluation if first else None,
        }
        # The first iteration's exploration is also the first segment of vanilla RL.
        vanilla = explored
        if recipe.vanilla and not first:
            vanilla = explore(
                "vanilla-rl", policy=base_policy, earlier_state=vanilla_state, iteration=1, segment=iteration
            )
            to_report |= {
                "vanilla_policy": vanilla["explored_policy"],
                "vanilla_report": add("vanilla-harvesting", rollouts=vanilla["rollouts"])["report"],
                "vanilla_evaluation": evaluate("vanilla", vanilla["explored_policy"], vanilla["snapshots"]),
            }
        reported = add(
            "report",
            previous_results=results,
            previous_policy=policy if first else best_policy,
            iteration=iteration,
            with_vanilla=recipe.vanilla,
            settings=report_settings,
            **to_report,
        )
        if recipe.store.publish_uri:
            add(
                "publishing",
                trajectories=harvested["trajectories"],
                experts=filtered["experts"],
                best_policy=reported["best_policy"],
                results=reported["results"],
                page=reported["page"],
                iteration=iteration,
                uri=recipe.store.publish_uri,
                run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            )
        made = fine_tuned | reported | filtered | {"vanilla_state": vanilla["training_state"]}
        return Outputs(**{name: made[name] for name in handed_on})

    return rloop_iteration


def import_artifacts(uris: dict[str, Any], before: int) -> dict[str, Any]:
    """Adds importers of what a run carries over from the run that it continues; returns the artifacts by name.

    An artifact that KFP already knows by its URI is not imported again: repeating the same run hits the cache.

    Args:
        uris: URIs by the names of `CARRIED`.
        before: Number of iterations of the continued run.
    """
    artifacts = {}
    for name, uri in uris.items():
        importer = dsl.importer(artifact_uri=uri, artifact_class=CARRIED[name].kind, reimport=False)
        artifacts[name] = importer.set_display_name(f"{CARRIED[name].title} of iteration {before}").output
    return artifacts


def build_pipeline(recipe: Recipe, registry: str, variant: str, before: int) -> Any:
    """Returns the `rloop` pipeline of a recipe; arguments as of `compile_pipeline`."""
    graph = Graph(TASKS, recipe, registry, variant, recipe_nodes(recipe.pools))
    numbers = range(before + 1, before + recipe.iterations + 1)
    title = f"RLoop, from {before} to {numbers[-1]} iterations" if before else f"RLoop, {numbers[-1]} iterations"
    # KFP requires a nested pipeline to be defined outside the one that uses it.
    first, later = iteration_pipeline(graph, first=True), iteration_pipeline(graph, first=False)

    @dsl.pipeline(name=PIPELINE_NAME, display_name=title)
    @with_parameters(recipe, continues=before > 0)
    def rloop(base_policy: Any, **parameters: Any) -> None:
        """RL on verifiable rewards in a loop: explore with RL, keep correct rollouts on hard problems, fine-tune
        the iteration's initial policy on them, and start again from there (arXiv 2511.04285).
        """
        uris = {name: parameters.pop(f"continue_{name}") for name in carried_over(recipe)} if before else {}
        carried = import_artifacts(uris, before)
        checked = graph.add(
            "preflight",
            base_policy_uri=base_policy,
            earlier_results=carried.get("results"),
            earlier_iterations=before or None,
            **parameters,
        )
        add = graph.on(**{pool: Nodes(checked[f"{pool}_nodes"], checked[f"{pool}_taints"]) for pool in POOLS}).add
        prepared = add(
            "data-preparation",
            base_policy_uri=base_policy,
            data_version=checked["data_version"],
            settings=checked["preparation_settings"],
        )
        shared = {name: prepared[name] for name in ("problems", "benchmark_problems")}
        shared |= {name: checked[name] for name in FROM_PREFLIGHT}
        base = {"base_policy": prepared["base_policy"]} if recipe.vanilla or recipe.rft_from == "base" else {}
        for number in numbers:
            if carried:
                inputs = {CARRIED[name].input: artifact for name, artifact in carried.items()}
                task = named(later, f"iteration-{number}")(iteration=number, **inputs, **base, **shared)
            else:
                base_evaluation = add(
                    "evaluation-base",
                    policy=prepared["base_policy"],
                    benchmark_problems=prepared["benchmark_problems"],
                    kind="base",
                    iteration=0,
                    settings=checked["evaluation_settings"],
                )
                task = first(
                    iteration=number,
                    policy=prepared["base_policy"],
                    results=prepared["report"],
                    base_evaluation=base_evaluation["evaluation"],
                    **shared,
                )
            task.set_display_name(f"Iteration {number}")
            carried = {name: task.outputs[CARRIED[name].output] for name in carried_over(recipe)}

    return rloop


def compile_pipeline(recipe: Recipe, output: Path, registry: str = "", variant: str = "", before: int = 0) -> None:
    """Compiles a recipe's pipeline to a YAML file for Kubeflow and the local runner.

    Args:
        recipe: The recipe.
        output: File to write.
        registry: Registry of the stages' images; empty for a local run.
        variant: Variant of the training stages' images, cuda or cpu; empty: cuda with a registry, else cpu.
        before: Number of iterations of the run that this one continues; 0 for a run of its own.
    """
    compiler.Compiler().compile(build_pipeline(recipe, registry, variant, before), str(output))
    reduce_compiled(output)


main = command_line(compile_pipeline)

if __name__ == "__main__":
    main()
