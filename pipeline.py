"""RLoop post-training as a Kubeflow Pipeline: the graph, and the commands that compile and run it.

    python pipeline.py compile --recipe recipes/laptop.yaml --iterations 3 --output rloop.yaml
    python pipeline.py run --recipe recipes/laptop.yaml

The graph: preflight, data preparation and the evaluation of the base policy, then one nested pipeline an iteration:
RL exploration, rollout harvesting, verification filtering, RFT from the iteration's initial policy, the
evaluation of both policies, and the report. With vanilla RL to compare, each iteration from the second on also
prolongs one long RL run by as many steps; the first iteration's exploration is its beginning. N iterations are
unrolled when the pipeline is compiled, since KFP has no loop that carries state.

A run that goes on from where another ended takes that one's last policy, best policy, results and so on in through
importers, by URIs that are parameters; its iterations are numbered from there, and none evaluates the base policy.
"""

import copy
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
from kfp import compiler, dsl, kubernetes

from components.data_preparation.component import data_preparation
from components.evaluation.component import evaluation
from components.preflight.component import preflight
from components.preflight.resolve import POOLS, READ_BY
from components.publishing.component import publishing
from components.report.component import report
from components.rft.component import rft
from components.rl_exploration.component import rl_exploration
from components.rollout_harvesting.component import rollout_harvesting
from components.shared.errors import InputError
from components.shared.stage import disk_problem, whole_file
from components.shared.training.parallel import ONE_PROCESS
from components.shared.training.tracking import CREDENTIALS
from components.verification_filtering.component import verification_filtering
from launch.analysis.compare import compare
from launch.analysis.grade import grade
from launch.check import check
from launch.compiled import read_compiled, reduce_compiled
from launch.continuation import continued_folder
from launch.images import STAGES, VARIANTS, default_variant, image, require_images
from launch.images_command import images
from launch.kubeflow.cluster import PIPELINE_NAME
from launch.kubeflow.commands import cancel, retry, status
from launch.kubeflow.schedule import schedule
from launch.kubeflow.submit import submit
from launch.kubeflow.workflow_size import check_size, workflow_size
from launch.local.run import run_locally
from launch.parameters import run_parameters, taken_over
from launch.planning.plan import plan
from launch.pools import connect, place, pool_parameters
from launch.recipe import Recipe, load_recipe


def variant_of(component: Any, name: str) -> Any:
    """The same component under another name, for tasks that are called by what they do."""
    clone = copy.copy(component)
    clone.component_spec = dataclasses.replace(component.component_spec, name=name)
    return clone


EVALUATION_OF = {
    kind: variant_of(evaluation, f"evaluation-{kind}") for kind in ("base", "explored", "rloop", "vanilla")
}
vanilla_rl = variant_of(rl_exploration, "vanilla-rl")
vanilla_harvesting = variant_of(rollout_harvesting, "vanilla-harvesting")
# What a run may take over from another: its type, and what the UI calls it.
TAKEN_OVER = {
    "policy": (dsl.Model, "Policy"),
    "best_policy": (dsl.Model, "Best policy"),
    "results": (dsl.Artifact, "Results"),
    "vanilla_state": (dsl.Artifact, "State of vanilla RL"),
    "experts": (dsl.Dataset, "Experts"),
}
# What preflight hands to the iterations as it is: the settings of their stages, and where their pods go.
ITERATION_SETTINGS = [f"{stage}_settings" for stage in READ_BY if stage != "preparation"]
POOL_PARAMETERS = [f"{pool}_{what}" for pool in POOLS for what in ("nodes", "taints")]


class Graph:
    """What the stages of a pipeline are made from: the recipe's switches, the images, the pools."""

    def __init__(self, recipe: Recipe, registry: str, variant: str) -> None:
        self.recipe, self._registry, self._variant = recipe, registry, variant

    def stage(
        self, component: Any, stage: str, display_name: str, pools: dict[str, Any], /, **arguments: Any
    ) -> dsl.PipelineTask:
        """Adds a task of a stage.

        Args:
            component: the stage's component.
            stage: its folder under components.
            display_name: in the UI.
            pools: of the parameters `POOL_nodes` and `POOL_taints`.
            arguments: of the component.
        """
        recipe = self.recipe
        task = component(**{name: value for name, value in arguments.items() if value is not None})
        task.set_container_image(image(stage, self._registry, self._variant)).set_display_name(display_name)
        parallel = {"rl_exploration": recipe.rl.parallel, "rft": recipe.rft.parallel}.get(stage, ONE_PROCESS)
        place(task, stage, recipe.pools, pools, recipe.caching, parallel)
        connect(task, stage, recipe.store)
        if stage in ("rl_exploration", "rft") and recipe.tracking.secret:
            keys = {CREDENTIALS[name]: CREDENTIALS[name] for name in recipe.tracking.report_to}
            kubernetes.use_secret_as_env(task, recipe.tracking.secret, keys)
        return task


def iteration_pipeline(graph: Graph, begins: bool) -> Any:
    """The nested pipeline of an iteration.

    Args:
        graph: makes the tasks.
        begins: whether it is the run's first iteration, which starts from the base policy and reports on it.
    """
    recipe = graph.recipe
    # From the second iteration on, one long RL run is prolonged beside RLoop; the first exploration is its beginning.
    vanilla = recipe.vanilla and not begins
    handed_on = {"rloop_policy": dsl.Model, "results": dsl.Artifact, "best_policy": dsl.Model}
    handed_on |= {"vanilla_state": dsl.Artifact} if recipe.vanilla else {}
    handed_on |= {"experts": dsl.Dataset} if recipe.experts_from == "all" else {}
    Outputs = NamedTuple("Outputs", list(handed_on.items()))  # type: ignore[misc]

    @dsl.pipeline(name="iteration", display_name="RLoop iteration")
    def iteration(
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
        pools = {
            "cpu_nodes": cpu_nodes,
            "cpu_taints": cpu_taints,
            "training_nodes": training_nodes,
            "training_taints": training_taints,
            "inference_nodes": inference_nodes,
            "inference_taints": inference_taints,
        }
        base = policy if begins else base_policy

        def evaluated(kind: str, of: Any, exploration: Any = None, initial: Any = None) -> Any:
            snapshots = exploration.outputs["snapshots"] if exploration and recipe.rl.snapshot_every else None
            return graph.stage(
                EVALUATION_OF[kind],
                "evaluation",
                f"Evaluation: {kind} policy",
                pools,
                policy=of,
                benchmark_problems=benchmark_problems,
                kind=kind,
                iteration=iteration,
                snapshots=snapshots,
                initial_policy=initial if snapshots else None,
                settings=evaluation_settings,
            ).outputs["evaluation"]

        exploration = graph.stage(
            rl_exploration,
            "rl_exploration",
            "RL exploration",
            pools,
            policy=policy,
            problems=problems,
            iteration=iteration,
            segment=1,
            settings=exploration_settings,
        )
        explored_policy = exploration.outputs["explored_policy"]
        harvesting = graph.stage(
            rollout_harvesting,
            "rollout_harvesting",
            "Rollout harvesting",
            pools,
            rollouts=exploration.outputs["rollouts"],
        )
        filtering = graph.stage(
            verification_filtering,
            "verification_filtering",
            "Verification filtering",
            pools,
            trajectories=harvesting.outputs["trajectories"],
            problems=problems,
            earlier_experts=None if begins or recipe.experts_from != "all" else earlier_experts,
            settings=filtering_settings,
        )
        refining = graph.stage(
            rft,
            "rft",
            "RFT",
            pools,
            policy={"initial": policy, "explored": explored_policy, "base": base}[recipe.rft_from],
            experts=filtering.outputs["experts"],
            iteration=iteration,
            settings=rft_settings,
        )
        rloop_policy = refining.outputs["rloop_policy"]
        reported = {
            "explored_policy": explored_policy,
            "rloop_policy": rloop_policy,
            "explored_evaluation": evaluated("explored", explored_policy, exploration, policy),
            "rloop_evaluation": evaluated("rloop", rloop_policy),
            "rft_log": refining.outputs["log"],
            "base_evaluation": base_evaluation if begins else None,
        }
        state = exploration.outputs["training_state"] if recipe.vanilla else None
        if vanilla:
            longer = graph.stage(
                vanilla_rl,
                "rl_exploration",
                "Vanilla RL",
                pools,
                policy=base_policy,
                problems=problems,
                earlier_state=vanilla_state,
                iteration=1,
                segment=iteration,
                settings=exploration_settings,
            )
            gathered = graph.stage(
                vanilla_harvesting,
                "rollout_harvesting",
                "Rollout harvesting: vanilla RL",
                pools,
                rollouts=longer.outputs["rollouts"],
            )
            state = longer.outputs["training_state"]
            vanilla_policy = longer.outputs["explored_policy"]
            reported |= {
                "vanilla_policy": vanilla_policy,
                "vanilla_evaluation": evaluated("vanilla", vanilla_policy, longer),
                "vanilla_report": gathered.outputs["report"],
            }
        reporting = graph.stage(
            report,
            "report",
            "Report",
            pools,
            previous_results=results,
            previous_policy=policy if begins else best_policy,
            iteration=iteration,
            with_vanilla=recipe.vanilla,
            settings=report_settings,
            **reported,
        )
        if recipe.store.publish_uri:
            graph.stage(
                publishing,
                "publishing",
                "Publishing",
                pools,
                trajectories=harvesting.outputs["trajectories"],
                experts=filtering.outputs["experts"],
                best_policy=reporting.outputs["best_policy"],
                results=reporting.outputs["results"],
                page=reporting.outputs["page"],
                iteration=iteration,
                uri=recipe.store.publish_uri,
                run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            )
        outputs = {
            "rloop_policy": rloop_policy,
            "results": reporting.outputs["results"],
            "best_policy": reporting.outputs["best_policy"],
            "vanilla_state": state,
            "experts": filtering.outputs["experts"],
        }
        return Outputs(**{name: outputs[name] for name in handed_on})

    return iteration


def take_over(recipe: Recipe, before: int, uris: dict[str, Any]) -> dict[str, Any]:
    """Adds the importers of what a run takes over from the one that it goes on from.

    None imports anew what is known under its URI already: the same run once more comes from the cache.

    Args:
        recipe: says what is needed.
        before: iterations of that run.
        uris: of all that may be taken over.

    Returns:
        The artifacts by name.
    """
    imported = {}
    for name in taken_over(recipe):
        kind, words = TAKEN_OVER[name]
        task = dsl.importer(artifact_uri=uris[name], artifact_class=kind, reimport=False)
        imported[name] = task.set_display_name(f"{words} of iteration {before}").output
    return imported


def add_iterations(
    graph: Graph,
    pipelines: tuple[Any, Any],
    numbers: range,
    earlier: dict[str, Any],
    checked: dict[str, Any],
    prepared: dict[str, Any],
) -> None:
    """Adds the iterations, each from where the one before ended; before a run's first, the base policy's evaluation.

    Args:
        graph: makes the tasks.
        pipelines: of a run's first iteration, and of all others.
        numbers: of the iterations.
        earlier: what is taken over from another run, by name; empty for a run of its own.
        checked: outputs of preflight.
        prepared: outputs of data preparation.
    """
    recipe = graph.recipe
    placed = {name: checked[name] for name in POOL_PARAMETERS}
    first, later = pipelines
    for_all = {
        "problems": prepared["problems"],
        "benchmark_problems": prepared["benchmark_problems"],
        **{name: checked[name] for name in ITERATION_SETTINGS},
        **placed,
    }
    for number in numbers:
        if not earlier:
            base_evaluation = graph.stage(
                EVALUATION_OF["base"],
                "evaluation",
                "Evaluation: base policy",
                placed,
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
                base_evaluation=base_evaluation.outputs["evaluation"],
                **for_all,
            )
        else:
            needed = {"best_policy": earlier["best_policy"], "results": earlier["results"]}
            if recipe.vanilla or recipe.rft_from == "base":
                needed["base_policy"] = prepared["base_policy"]
            if recipe.vanilla:
                needed["vanilla_state"] = earlier["vanilla_state"]
            if recipe.experts_from == "all":
                needed["earlier_experts"] = earlier["experts"]
            task = variant_of(later, f"iteration-{number}")(
                iteration=number, policy=earlier["policy"], **needed, **for_all
            )
        task.set_display_name(f"Iteration {number}")
        earlier = {**task.outputs, "policy": task.outputs["rloop_policy"]}


def build_pipeline(
    recipe: Recipe, iterations: int, registry: str = "", variant: str = "", before: int = 0
) -> Callable[..., Any]:
    """The `rloop` pipeline of N iterations, its parameters' defaults taken from a recipe.

    Args:
        recipe: gives the defaults.
        iterations: N.
        registry: where the stages' images are; empty for a local run.
        variant: of the training stages' images, cuda or cpu; empty: cuda for a registry, else cpu.
        before: iterations of the run that it goes on from; 0 for a run of its own.
    """
    graph = Graph(recipe, registry, variant)
    numbers = range(before + 1, before + iterations + 1)
    title = f"RLoop, from {before} to {numbers[-1]} iterations" if before else f"RLoop, {iterations} iterations"
    # KFP wants a nested pipeline to be defined outside of the one that uses it.
    pipelines = iteration_pipeline(graph, begins=True), iteration_pipeline(graph, begins=False)
    defaults = run_parameters(recipe)

    @dsl.pipeline(name=PIPELINE_NAME, display_name=title)
    def rloop(  # parameters that the pipeline does not read are left out of the compiled one
        continue_policy: str,
        continue_best_policy: str,
        continue_results: str,
        continue_vanilla_state: str,
        continue_experts: str,
        base_policy: str = defaults["base_policy"],
        seed: int = defaults["seed"],
        data_train: list = defaults["data_train"],
        data_benchmarks: list = defaults["data_benchmarks"],
        rl_steps: int = defaults["rl_steps"],
        rl_learning_rate: float = defaults["rl_learning_rate"],
        filter_max_success_rate: float = defaults["filter_max_success_rate"],
        rft_learning_rate: float = defaults["rft_learning_rate"],
        rft_epochs: float = defaults["rft_epochs"],
        eval_samples: int = defaults["eval_samples"],
        pools: dict = defaults["pools"],
        advanced: dict = defaults["advanced"],
    ) -> None:
        """RL on verifiable rewards in a loop: explore with RL, keep correct rollouts on hard problems, fine-tune
        the iteration's initial policy on them, and start again from there (arXiv 2511.04285).

        Args:
            continue_policy: URI of the policy where the run goes on: the last rloop_policy of the run before.
            continue_best_policy: URI of the best policy of that run.
            continue_results: URI of that run's last results.
            continue_vanilla_state: URI of the training state in which that run left vanilla RL.
            continue_experts: URI of that run's last experts.
            base_policy: Where RLoop starts: a Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].
            seed: Seed of all sampling and shuffling.
            data_train: Sources of training problems, each with a uri and, where needed, verifier and columns.
            data_benchmarks: Benchmarks, each with a name and a uri.
            rl_steps: RL steps of each iteration.
            rl_learning_rate: Peak learning rate of RL.
            filter_max_success_rate: A problem is hard, and kept, at or below this success rate.
            rft_learning_rate: Peak learning rate of fine-tuning on the experts.
            rft_epochs: Passes over the experts.
            eval_samples: Completions a problem in evaluation: the n of avg@n.
            pools: By node pool (cpu, training, inference): node_selector, tolerations, accelerator_memory_gib.
            advanced: By section of the recipe (data, rl, grading, ...): all other keys, where not at their defaults.
        """
        uris = {
            "policy": continue_policy,
            "best_policy": continue_best_policy,
            "results": continue_results,
            "vanilla_state": continue_vanilla_state,
            "experts": continue_experts,
        }
        earlier = take_over(recipe, before, uris) if before else {}
        checking = graph.stage(
            preflight,
            "preflight",
            "Preflight",
            pool_parameters(recipe.pools),
            earlier_results=earlier.get("results"),
            earlier_iterations=before or None,
            base_policy_uri=base_policy,
            seed=seed,
            data_train=data_train,
            data_benchmarks=data_benchmarks,
            rl_steps=rl_steps,
            rl_learning_rate=rl_learning_rate,
            filter_max_success_rate=filter_max_success_rate,
            rft_learning_rate=rft_learning_rate,
            rft_epochs=rft_epochs,
            eval_samples=eval_samples,
            pools=pools,
            advanced=advanced,
        )
        checking.set_caching_options(False)  # it looks whether there is something new
        checked = checking.outputs
        placed = {name: checked[name] for name in POOL_PARAMETERS}
        preparation = graph.stage(
            data_preparation,
            "data_preparation",
            "Data preparation",
            placed,
            base_policy_uri=base_policy,
            data_version=checked["data_version"],
            settings=checked["preparation_settings"],
        )
        prepared = preparation.outputs
        add_iterations(graph, pipelines, numbers, earlier, checked, prepared)

    built: Callable[..., Any] = rloop
    return built


def compile_pipeline(recipe: Recipe, output: Path, registry: str = "", variant: str = "", before: int = 0) -> None:
    """Compiles the pipeline of a recipe to a YAML file that Kubeflow and the local runner take.

    Args:
        recipe: what to run.
        output: file to write.
        registry: where the stages' images are; empty for a local run.
        variant: of the training stages' images, cuda or cpu; empty: cuda for a registry, else cpu.
        before: iterations of the run that it goes on from; 0 for a run of its own.
    """
    built = build_pipeline(recipe, recipe.iterations, registry, variant, before)
    compiler.Compiler().compile(built, str(output))
    reduce_compiled(output)


recipe_option = click.option(
    "--recipe", "recipe_path", required=True, type=click.Path(path_type=Path), help="YAML file that sets the run up."
)
iterations_option = click.option(
    "--iterations", type=click.IntRange(min=1), help="Iterations of RLoop; the recipe's own if left out."
)
vanilla_option = click.option(
    "--with-vanilla-rl", "vanilla", is_flag=True, help="Run vanilla RL of as many steps beside RLoop, to compare."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a recipe key, such as rl.steps=20."
)


class Commands(click.Group):
    """Shows errors that are meant for the user as messages."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command that was asked for."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"error: {error}", err=True)
        except OSError as error:
            if (message := disk_problem(error)) is None:
                raise
            click.echo(f"error: {message}", err=True)
        ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "obj": compile_pipeline})
def main() -> None:
    """RLoop post-training as a Kubeflow Pipeline."""


@main.command("compile")
@recipe_option
@iterations_option
@vanilla_option
@set_option
@click.option("--registry", default="", help="Where the stages' images are, such as registry.example.com/me.")
@click.option(
    "--variant", type=click.Choice(VARIANTS), help="Of the training stages' images; by the pools if left out."
)
@click.option("--allow-missing-images", is_flag=True, help="Do not ask the registry whether it has the images.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="YAML file to write.")
def compile_command(
    recipe_path: Path,
    iterations: int | None,
    vanilla: bool,
    overrides: tuple[str, ...],
    registry: str,
    variant: str | None,
    allow_missing_images: bool,
    output: Path,
) -> None:
    """Compile the pipeline to a YAML file, to upload to Kubeflow or to run."""
    recipe = load_recipe(recipe_path, overrides, iterations, vanilla)
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"--output {output}: expected a name that ends in .yaml")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--output {output}: {output.parent} is not a folder") from None
    except OSError as error:
        raise InputError(f"--output {output}: cannot make {output.parent}: {error.strerror}") from None
    variant = variant or default_variant(registry, recipe)
    if registry and not allow_missing_images:
        require_images(registry, variant)
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / output.name
        compile_pipeline(recipe, compiled, registry, variant)
        size = workflow_size(read_compiled(compiled))
        check_size(size, recipe.iterations)
        try:
            with whole_file(output) as temporary:
                shutil.copyfile(compiled, temporary)
        except OSError as error:
            raise InputError(f"--output {output}: cannot write it: {error.strerror}; choose another folder") from None
    click.echo(
        f"wrote {output}: pipeline {PIPELINE_NAME} with {recipe.iterations} iterations, "
        f"{output.stat().st_size / 1000:,.0f} KB"
    )
    click.echo(f"on a cluster: {size.words()}")


@main.command("run")
@recipe_option
@iterations_option
@vanilla_option
@set_option
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    help="Folder of the run; runs/RECIPE if left out, and runs/RECIPE-from-K where it goes on with iteration K.",
)
@click.option(
    "--runner",
    type=click.Choice(["subprocess", "docker"]),
    default="subprocess",
    show_default=True,
    help="What runs a stage: a process of this environment, or a container of its image.",
)
@click.option(
    "--store",
    type=click.Choice(["folder", "s3"]),
    default="folder",
    show_default=True,
    help="Where artifacts and progress go: the run's folder, or an S3 server started for the run too.",
)
@click.option(
    "--continue",
    "continued",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Go on from the last iteration of the run in this folder, by as many more.",
)
@click.option("--until", metavar="STAGE", help=f"Stop after the first run of a stage: {', '.join(STAGES)}.")
def run_command(
    recipe_path: Path,
    iterations: int | None,
    vanilla: bool,
    overrides: tuple[str, ...],
    output_dir: Path | None,
    runner: Literal["subprocess", "docker"],
    store: Literal["folder", "s3"],
    continued: Path | None,
    until: str | None,
) -> None:
    """Compile the pipeline and run that very file here, without a cluster.

    Finished stages are kept: the same command again runs only what failed, was interrupted or changed.
    """
    recipe = load_recipe(recipe_path, overrides, iterations, vanilla)
    earlier = continued_folder(continued, recipe) if continued else None
    if continued and output_dir and output_dir.resolve() == continued.resolve():
        raise InputError(f"--output-dir {output_dir} is the folder of the run that this one goes on from: name another")
    name = f"{recipe_path.stem}-from-{earlier.iterations + 1}" if earlier else recipe_path.stem
    output_dir = output_dir or Path("runs") / name
    sys.exit(run_locally(recipe, recipe_path, output_dir, until, compile_pipeline, runner, store, earlier))


for command in (check, plan, submit, schedule, retry, status, cancel, grade, compare, images):
    main.add_command(command)

if __name__ == "__main__":
    main()
