"""RLoop post-training as a Kubeflow Pipeline: the graph, and the commands that compile and run it.

    python pipeline.py compile --recipe recipes/laptop.yaml --iterations 3 --output rloop.yaml
    python pipeline.py run --recipe recipes/laptop.yaml

The graph: preflight, data preparation and the evaluation of the base policy, then one nested pipeline an iteration:
RL exploration, rollout harvesting, verification filtering, RFT from the iteration's initial policy, the
evaluation of both policies, and the report. With vanilla RL to compare, each iteration from the second on also
prolongs one long RL run by as many steps; the first iteration's exploration is its beginning. N iterations are
unrolled when the pipeline is compiled, since KFP has no loop that carries state.
"""

import copy
import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
from kfp import compiler, dsl, kubernetes
from pydantic import BaseModel

from components.data_preparation.component import data_preparation
from components.evaluation.component import evaluation, evaluation_curve
from components.preflight.bucket import check_bucket
from components.preflight.check import preflight as check_run
from components.preflight.component import preflight
from components.preflight.settings import RunSize
from components.publishing.component import publishing
from components.report.component import report
from components.rft.component import rft
from components.rl_exploration.component import rl_exploration
from components.rollout_harvesting.component import rollout_harvesting
from components.shared.errors import InputError
from components.shared.processes import ONE_PROCESS
from components.shared.sources import keyed_sources
from components.shared.stage import disk_problem
from components.shared.tracking import CREDENTIALS
from components.verification_filtering.component import verification_filtering
from launch.cluster import PIPELINE_NAME
from launch.cluster_commands import cancel, retry, schedule, status, submit
from launch.compare import compare
from launch.grade import grade
from launch.images import STAGES, VARIANTS, image, require_images
from launch.images_command import images
from launch.local import run_locally
from launch.plan import plan
from launch.pools import connect, place
from launch.recipe import Recipe, load_recipe
from launch.store import check_apart

# Recipe keys that are pipeline parameters of their own; the rest of a section is one `..._settings` document.
OWN_PARAMETERS = {
    "data": ("train", "benchmarks"),
    "rl": ("steps", "learning_rate", "prompts_per_step", "group_size"),
    "grading": (),
    "store": ("checkpoint_uri",),
    "filter": ("max_success_rate", "max_per_problem"),
    "rft": ("learning_rate", "epochs"),
    "eval": ("samples",),
    "report": (),
    "tracking": (),
}


def variant(component: Any, name: str) -> Any:
    """The same component under another name.

    Tasks of one component get numbers that depend on N, and kfp.local's cache looks results up by them; with
    a name for each use, an iteration's results are found again when N changes.
    """
    clone = copy.copy(component)
    clone.component_spec = dataclasses.replace(component.component_spec, name=name)
    return clone


class IterationOutputs(NamedTuple):
    """What one iteration hands to the next."""

    rloop_policy: dsl.Model
    results: dsl.Artifact
    best_policy: dsl.Model
    vanilla_state: dsl.Artifact  # of vanilla RL after as many steps; empty where none is run
    experts: dsl.Dataset


EVALUATION_OF = {kind: variant(evaluation, f"evaluation-{kind}") for kind in ("base", "explored", "rloop", "vanilla")}
CURVE_OF = {kind: variant(evaluation_curve, f"curve-{kind}") for kind in ("explored", "vanilla")}
vanilla_rl = variant(rl_exploration, "vanilla-rl")
vanilla_harvesting = variant(rollout_harvesting, "vanilla-harvesting")


def build_pipeline(recipe: Recipe, iterations: int, registry: str = "", variant: str = "") -> Callable[..., Any]:
    """The `rloop` pipeline of N iterations, its parameters' defaults taken from a recipe.

    Args:
        recipe: gives the defaults.
        iterations: N.
        registry: where the stages' images are; empty for a local run.
        variant: of the training stages' images, cuda or cpu; empty: cuda for a registry, else cpu.
    """

    def prepared(task: dsl.PipelineTask, stage: str, display_name: str, pools: dict[str, Any]) -> None:
        task.set_container_image(image(stage, registry, variant)).set_display_name(display_name)
        parallel = {"rl_exploration": recipe.rl.parallel, "rft": recipe.rft.parallel}.get(stage, ONE_PROCESS)
        place(task, stage, recipe.pools, pools, recipe.caching, parallel)
        connect(task, stage, recipe.store)
        if stage in ("rl_exploration", "rft") and recipe.tracking.secret:
            keys = {CREDENTIALS[name]: CREDENTIALS[name] for name in recipe.tracking.report_to}
            kubernetes.use_secret_as_env(task, recipe.tracking.secret, keys)

    def iteration_pipeline(prolonged: bool) -> Any:
        """An iteration; from the second on, it has what the one before handed on."""

        @dsl.pipeline(name="iteration", display_name="RLoop iteration")
        def iteration(
            iteration: int,
            seed: int,
            base_policy: dsl.Input[dsl.Model],
            policy: dsl.Input[dsl.Model],
            problems: dsl.Input[dsl.Dataset],
            benchmark_problems: dsl.Input[dsl.Dataset],
            base_evaluation: dsl.Input[dsl.Artifact],
            previous_results: dsl.Input[dsl.Artifact],
            previous_policy: dsl.Input[dsl.Model],
            rl_steps: int,
            rl_learning_rate: float,
            rl_prompts_per_step: int,
            rl_group_size: int,
            rl_settings: dict,
            grading_settings: dict,
            store_checkpoint_uri: str,
            store_settings: dict,
            tracking_settings: dict,
            filter_max_success_rate: float,
            filter_max_per_problem: int,
            filter_settings: dict,
            rft_learning_rate: float,
            rft_epochs: float,
            rft_settings: dict,
            eval_samples: int,
            eval_settings: dict,
            report_settings: dict,
            pool_cpu_node_selector: dict,
            pool_cpu_tolerations: list,
            pool_training_node_selector: dict,
            pool_training_tolerations: list,
            pool_inference_node_selector: dict,
            pool_inference_tolerations: list,
            vanilla_state: dsl.Input[dsl.Artifact] = None,
            earlier_experts: dsl.Input[dsl.Dataset] = None,
        ) -> IterationOutputs:
            pools = {
                "pool_cpu_node_selector": pool_cpu_node_selector,
                "pool_cpu_tolerations": pool_cpu_tolerations,
                "pool_training_node_selector": pool_training_node_selector,
                "pool_training_tolerations": pool_training_tolerations,
                "pool_inference_node_selector": pool_inference_node_selector,
                "pool_inference_tolerations": pool_inference_tolerations,
            }
            progress = {"checkpoint_uri": store_checkpoint_uri, "checkpoint_settings": store_settings}
            exploring = {
                "problems": problems,
                "seed": seed,
                "steps": rl_steps,
                "learning_rate": rl_learning_rate,
                "prompts_per_step": rl_prompts_per_step,
                "group_size": rl_group_size,
                "settings": rl_settings,
                "grading_settings": grading_settings,
                "keep_training_state": recipe.vanilla,
                "tracking_settings": tracking_settings,
                **progress,
            }
            measuring = {
                "benchmark_problems": benchmark_problems,
                "iteration": iteration,
                "seed": seed,
                "samples": eval_samples,
                "settings": eval_settings,
                "grading_settings": grading_settings,
                **progress,
            }
            exploration = rl_exploration(policy=policy, iteration=iteration, segment=1, **exploring)
            prepared(exploration, "rl_exploration", "RL exploration", pools)
            harvesting = rollout_harvesting(rollouts=exploration.outputs["rollouts"])
            prepared(harvesting, "rollout_harvesting", "Rollout harvesting", pools)
            before = {"earlier_experts": earlier_experts} if prolonged and recipe.experts_from == "all" else {}
            filtering = verification_filtering(
                trajectories=harvesting.outputs["trajectories"],
                **before,
                problems=problems,
                max_success_rate=filter_max_success_rate,
                max_per_problem=filter_max_per_problem,
                settings=filter_settings,
                grading_settings=grading_settings,
                **progress,
            )
            prepared(filtering, "verification_filtering", "Verification filtering", pools)
            starts = {"initial": policy, "explored": exploration.outputs["explored_policy"], "base": base_policy}
            refining = rft(
                policy=starts[recipe.rft_from],
                experts=filtering.outputs["experts"],
                iteration=iteration,
                seed=seed,
                learning_rate=rft_learning_rate,
                epochs=rft_epochs,
                settings=rft_settings,
                tracking_settings=tracking_settings,
                **progress,
            )
            prepared(refining, "rft", "RFT", pools)
            evaluations = {}
            for kind, trained in (
                ("explored", exploration.outputs["explored_policy"]),
                ("rloop", refining.outputs["rloop_policy"]),
            ):
                evaluations[kind] = EVALUATION_OF[kind](policy=trained, kind=kind, **measuring)
                prepared(evaluations[kind], "evaluation", f"Evaluation: {kind} policy", pools)
            more: dict[str, Any] = {}  # what the report takes where it is there
            if recipe.rl.snapshot_every:
                curve = CURVE_OF["explored"](
                    policy=policy,
                    snapshots=exploration.outputs["snapshots"],
                    kind="explored",
                    with_initial=True,
                    **measuring,
                )
                prepared(curve, "evaluation", "Evaluation: policies on the way", pools)
                more["curve"] = curve.outputs["curve"]
            vanilla_end = exploration.outputs["training_state"]
            if recipe.vanilla and prolonged:
                # One RL run from the base policy, of which the first iteration's exploration is the first segment.
                vanilla = vanilla_rl(
                    policy=base_policy, iteration=1, segment=iteration, earlier_state=vanilla_state, **exploring
                )
                prepared(vanilla, "rl_exploration", "Vanilla RL", pools)
                vanilla_end = vanilla.outputs["training_state"]
                gathered = vanilla_harvesting(rollouts=vanilla.outputs["rollouts"])
                prepared(gathered, "rollout_harvesting", "Rollout harvesting: vanilla RL", pools)
                measured = EVALUATION_OF["vanilla"](
                    policy=vanilla.outputs["explored_policy"], kind="vanilla", **measuring
                )
                prepared(measured, "evaluation", "Evaluation: vanilla policy", pools)
                more |= {
                    "vanilla_policy": vanilla.outputs["explored_policy"],
                    "vanilla_evaluation": measured.outputs["evaluation"],
                    "vanilla_log": vanilla.outputs["log"],
                    "vanilla_harvesting_report": gathered.outputs["report"],
                }
                if recipe.rl.snapshot_every:
                    curve = CURVE_OF["vanilla"](
                        policy=base_policy,
                        snapshots=vanilla.outputs["snapshots"],
                        kind="vanilla",
                        with_initial=False,
                        **measuring,
                    )
                    prepared(curve, "evaluation", "Evaluation: vanilla policies on the way", pools)
                    more["vanilla_curve"] = curve.outputs["curve"]
            reporting = report(
                previous_results=previous_results,
                previous_policy=previous_policy,
                explored_policy=exploration.outputs["explored_policy"],
                rloop_policy=refining.outputs["rloop_policy"],
                base_evaluation=base_evaluation,
                explored_evaluation=evaluations["explored"].outputs["evaluation"],
                rloop_evaluation=evaluations["rloop"].outputs["evaluation"],
                exploration_log=exploration.outputs["log"],
                harvesting_report=harvesting.outputs["report"],
                filtering_report=filtering.outputs["report"],
                rft_log=refining.outputs["log"],
                iteration=iteration,
                with_vanilla=recipe.vanilla,
                settings=report_settings,
                **more,
            )
            prepared(reporting, "report", "Report", pools)
            if recipe.store.publish_uri:
                published = publishing(
                    trajectories=harvesting.outputs["trajectories"],
                    experts=filtering.outputs["experts"],
                    best_policy=reporting.outputs["best_policy"],
                    results=reporting.outputs["results"],
                    page=reporting.outputs["page"],
                    iteration=iteration,
                    uri=recipe.store.publish_uri,
                    run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
                )
                prepared(published, "publishing", "Publishing", pools)
            return IterationOutputs(
                rloop_policy=refining.outputs["rloop_policy"],
                results=reporting.outputs["results"],
                best_policy=reporting.outputs["best_policy"],
                vanilla_state=vanilla_end,
                experts=filtering.outputs["experts"],
            )

        return iteration

    first = iteration_pipeline(prolonged=False)
    later = iteration_pipeline(prolonged=True) if recipe.vanilla or recipe.experts_from == "all" else first
    defaults = parameter_defaults(recipe)

    @dsl.pipeline(name=PIPELINE_NAME, display_name=f"RLoop, {iterations} iterations")
    def rloop(
        base_policy: str = defaults["base_policy"],
        seed: int = defaults["seed"],
        data_train: list = defaults["data_train"],
        data_benchmarks: list = defaults["data_benchmarks"],
        data_completion_tokens: int = defaults["data_completion_tokens"],
        data_settings: dict = defaults["data_settings"],
        rl_steps: int = defaults["rl_steps"],
        rl_learning_rate: float = defaults["rl_learning_rate"],
        rl_prompts_per_step: int = defaults["rl_prompts_per_step"],
        rl_group_size: int = defaults["rl_group_size"],
        rl_settings: dict = defaults["rl_settings"],
        grading_settings: dict = defaults["grading_settings"],
        store_checkpoint_uri: str = defaults["store_checkpoint_uri"],
        store_settings: dict = defaults["store_settings"],
        tracking_settings: dict = defaults["tracking_settings"],
        filter_max_success_rate: float = defaults["filter_max_success_rate"],
        filter_max_per_problem: int = defaults["filter_max_per_problem"],
        filter_settings: dict = defaults["filter_settings"],
        rft_learning_rate: float = defaults["rft_learning_rate"],
        rft_epochs: float = defaults["rft_epochs"],
        rft_settings: dict = defaults["rft_settings"],
        eval_samples: int = defaults["eval_samples"],
        eval_settings: dict = defaults["eval_settings"],
        report_settings: dict = defaults["report_settings"],
        pool_cpu_node_selector: dict = defaults["pool_cpu_node_selector"],
        pool_cpu_tolerations: list = defaults["pool_cpu_tolerations"],
        pool_training_node_selector: dict = defaults["pool_training_node_selector"],
        pool_training_tolerations: list = defaults["pool_training_tolerations"],
        pool_training_accelerator_memory_gib: float = defaults["pool_training_accelerator_memory_gib"],
        pool_inference_node_selector: dict = defaults["pool_inference_node_selector"],
        pool_inference_tolerations: list = defaults["pool_inference_tolerations"],
        refresh: str = "",
    ) -> None:
        """RL on verifiable rewards in a loop: explore with RL, keep correct rollouts on hard problems, fine-tune
        the iteration's initial policy on them, and start again from there (arXiv 2511.04285).

        Args:
            base_policy: Where RLoop starts: a Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].
            seed: Of all sampling and shuffling.
            data_train: Sources of training problems, each with a uri and, where needed, verifier and columns.
            data_benchmarks: Benchmarks, each with a name and a uri.
            data_completion_tokens: Tokens that a completion may take, in training or evaluation; longer prompts go.
            data_settings: Further keys of the recipe's data section.
            rl_steps: RL steps of each iteration.
            rl_learning_rate: Of RL.
            rl_prompts_per_step: Prompts sampled at each RL step.
            rl_group_size: Completions sampled a prompt.
            rl_settings: Further keys of the recipe's rl section.
            grading_settings: Keys of the recipe's grading section: limits and judgement calls of verdicts.
            store_checkpoint_uri: Where long stages keep progress: s3://BUCKET/PREFIX, a folder, or empty for nowhere.
            store_settings: Keys of the recipe's store section: how often progress is saved, and for how long.
            tracking_settings: Keys of the recipe's tracking section: trackers of training beside TensorBoard.
            filter_max_success_rate: A problem is hard, and kept, at or below this success rate.
            filter_max_per_problem: Expert trajectories kept of one problem.
            filter_settings: Further keys of the recipe's filter section.
            rft_learning_rate: Of fine-tuning on the experts.
            rft_epochs: Passes over the experts.
            rft_settings: Further keys of the recipe's rft section.
            eval_samples: Completions a problem in evaluation: the n of avg@n.
            eval_settings: Further keys of the recipe's eval section.
            report_settings: Keys of the recipe's report section.
            pool_cpu_node_selector: Labels of the nodes for preparing, harvesting, filtering and reporting.
            pool_cpu_tolerations: Taints of those nodes that pods accept.
            pool_training_node_selector: Labels of the nodes for RL exploration and RFT.
            pool_training_tolerations: Taints of those nodes that pods accept.
            pool_training_accelerator_memory_gib: Memory of one accelerator there, for preflight; 0 if not known.
            pool_inference_node_selector: Labels of the nodes for evaluation.
            pool_inference_tolerations: Taints of those nodes that pods accept.
            refresh: Any text; a new one makes preflight look at the data and the base policy again.
        """
        pools = {
            "pool_cpu_node_selector": pool_cpu_node_selector,
            "pool_cpu_tolerations": pool_cpu_tolerations,
            "pool_training_node_selector": pool_training_node_selector,
            "pool_training_tolerations": pool_training_tolerations,
            "pool_inference_node_selector": pool_inference_node_selector,
            "pool_inference_tolerations": pool_inference_tolerations,
        }
        checking = preflight(
            base_policy_uri=base_policy,
            train=data_train,
            benchmarks=data_benchmarks,
            steps=rl_steps,
            prompts_per_step=rl_prompts_per_step,
            group_size=rl_group_size,
            settings=rl_settings,
            accelerator_memory_gib=pool_training_accelerator_memory_gib,
            refresh=refresh,
        )
        prepared(checking, "preflight", "Preflight", pools)
        preparation = data_preparation(
            base_policy_uri=base_policy,
            train=data_train,
            benchmarks=data_benchmarks,
            completion_tokens=data_completion_tokens,
            data_version=checking.outputs["data_version"],
            settings=data_settings,
            grading_settings=grading_settings,
        )
        prepared(preparation, "data_preparation", "Data preparation", pools)
        base_evaluation = EVALUATION_OF["base"](
            policy=preparation.outputs["base_policy"],
            benchmark_problems=preparation.outputs["benchmark_problems"],
            kind="base",
            iteration=0,
            seed=seed,
            samples=eval_samples,
            settings=eval_settings,
            grading_settings=grading_settings,
            checkpoint_uri=store_checkpoint_uri,
            checkpoint_settings=store_settings,
        )
        prepared(base_evaluation, "evaluation", "Evaluation: base policy", pools)
        base = policy = best_policy = preparation.outputs["base_policy"]
        results = preparation.outputs["report"]
        handed_on: dict[str, Any] = {}
        for number in range(1, iterations + 1):
            iteration = (first if number == 1 else later)(
                iteration=number,
                seed=seed,
                base_policy=base,
                policy=policy,
                problems=preparation.outputs["problems"],
                benchmark_problems=preparation.outputs["benchmark_problems"],
                base_evaluation=base_evaluation.outputs["evaluation"],
                previous_results=results,
                previous_policy=best_policy,
                rl_steps=rl_steps,
                rl_learning_rate=rl_learning_rate,
                rl_prompts_per_step=rl_prompts_per_step,
                rl_group_size=rl_group_size,
                rl_settings=rl_settings,
                grading_settings=grading_settings,
                store_checkpoint_uri=store_checkpoint_uri,
                store_settings=store_settings,
                tracking_settings=tracking_settings,
                filter_max_success_rate=filter_max_success_rate,
                filter_max_per_problem=filter_max_per_problem,
                filter_settings=filter_settings,
                rft_learning_rate=rft_learning_rate,
                rft_epochs=rft_epochs,
                rft_settings=rft_settings,
                eval_samples=eval_samples,
                eval_settings=eval_settings,
                report_settings=report_settings,
                **pools,
                **handed_on,
            )
            iteration.set_display_name(f"Iteration {number}")
            policy, results = iteration.outputs["rloop_policy"], iteration.outputs["results"]
            best_policy = iteration.outputs["best_policy"]
            if recipe.vanilla:
                handed_on["vanilla_state"] = iteration.outputs["vanilla_state"]
            if recipe.experts_from == "all":
                handed_on["earlier_experts"] = iteration.outputs["experts"]

    built: Callable[..., Any] = rloop
    return built


def parameter_defaults(recipe: Recipe) -> dict[str, Any]:
    """The pipeline parameters as a recipe sets them."""
    defaults: dict[str, Any] = {
        "base_policy": recipe.base_policy,
        "seed": recipe.seed,
        "data_completion_tokens": recipe.completion_tokens,
    }
    for section, own in OWN_PARAMETERS.items():
        settings: BaseModel = getattr(recipe, section)
        values = settings.model_dump(mode="json", exclude_none=True)  # KFP takes no null
        if section == "store":  # where pods find it and what is published is fixed when the pipeline is compiled
            values = {key: values[key] for key in ("checkpoint_uri", "minutes", "keep_days")}
        if section == "tracking":
            del values["secret"]  # fixed too
        if own:
            defaults |= {f"{section}_{key}": values.pop(key) for key in own}
        defaults[f"{section}_settings"] = values
    for name, pool in recipe.pools:
        defaults[f"pool_{name}_node_selector"] = dict(pool.node_selector)
        defaults[f"pool_{name}_tolerations"] = list(pool.tolerations)
    defaults["pool_training_accelerator_memory_gib"] = recipe.pools.training.accelerator_memory_gib or 0.0
    # A list, since a mapping that passes through KFP loses its order.
    defaults["data_benchmarks"] = [{**source, "name": name} for name, source in defaults["data_benchmarks"].items()]
    validation = recipe.report.validation or next(iter(recipe.data.benchmarks))
    defaults["report_settings"]["validation"] = validation
    defaults["eval_settings"]["curve_benchmarks"] = recipe.eval.curve_benchmarks or [validation]
    return defaults


def compile_pipeline(recipe: Recipe, output: Path, registry: str = "", variant: str = "") -> None:
    """Compiles the pipeline of a recipe to a YAML file that Kubeflow and the local runner take."""
    compiler.Compiler().compile(build_pipeline(recipe, recipe.iterations, registry, variant), str(output))


recipe_option = click.option(
    "--recipe", "recipe_path", required=True, type=click.Path(path_type=Path), help="YAML file that sets the run up."
)
iterations_option = click.option(
    "--iterations", type=click.IntRange(1, 30), help="Iterations of RLoop; the recipe's own if left out."
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
@click.option("--variant", type=click.Choice(VARIANTS), help="Of the training stages' images; cuda for a registry.")
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
    if registry and not allow_missing_images:
        require_images(registry, variant or "")
    try:
        compile_pipeline(recipe, output, registry, variant or "")
    except OSError as error:
        raise InputError(f"--output {output}: cannot write it: {error.strerror}; choose another folder") from None
    click.echo(f"wrote {output}: pipeline {PIPELINE_NAME} with {recipe.iterations} iterations")


@main.command("check")
@recipe_option
@set_option
@click.option("--registry", default="", help="Look whether this registry has the stages' images too.")
@click.option("--pipeline-root", help="Write to and read from where artifacts go too: s3://BUCKET/PREFIX.")
@click.option("--s3-endpoint", envvar="AWS_ENDPOINT_URL_S3", show_envvar=True, help="URL of the store, if not AWS.")
def check_command(
    recipe_path: Path, overrides: tuple[str, ...], registry: str, pipeline_root: str | None, s3_endpoint: str | None
) -> None:
    """Look at everything a run needs, as its first stage does: data, base policy, memory, images, bucket."""
    recipe = load_recipe(recipe_path, overrides)
    if pipeline_root:
        for key in ("checkpoint_uri", "publish_uri"):
            check_apart({f"store.{key}": getattr(recipe.store, key), "--pipeline-root": pipeline_root})
        check_bucket(pipeline_root, s3_endpoint)
    if registry:
        require_images(registry)
    defaults = parameter_defaults(recipe)
    with tempfile.TemporaryDirectory() as folder:
        version, figures = check_run(
            recipe.base_policy,
            keyed_sources(defaults["data_train"], defaults["data_benchmarks"]),
            RunSize.check(recipe.rl.model_dump(), "rl"),
            accelerator_memory_gib=defaults["pool_training_accelerator_memory_gib"],
            page_out=Path(folder) / "page.html",
        )
    click.echo(f"everything that could be looked at is in order; data version {version}")
    for name, value in figures.items():
        click.echo(f"  {name.removesuffix('_gib').replace('_', ' '):<20} {value:8.2f} GiB")


@main.command("run")
@recipe_option
@iterations_option
@vanilla_option
@set_option
@click.option("--output-dir", type=click.Path(path_type=Path), help="Folder of the run; runs/RECIPE if left out.")
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
@click.option("--until", metavar="STAGE", help=f"Stop after the first run of a stage: {', '.join(STAGES)}.")
def run_command(
    recipe_path: Path,
    iterations: int | None,
    vanilla: bool,
    overrides: tuple[str, ...],
    output_dir: Path | None,
    runner: Literal["subprocess", "docker"],
    store: Literal["folder", "s3"],
    until: str | None,
) -> None:
    """Compile the pipeline and run that very file here, without a cluster.

    Finished stages are kept: the same command again runs only what failed, was interrupted or changed.
    """
    recipe = load_recipe(recipe_path, overrides, iterations, vanilla)
    output_dir = output_dir or Path("runs") / recipe_path.stem
    sys.exit(run_locally(recipe, recipe_path, output_dir, until, compile_pipeline, runner, store))


for command in (plan, submit, schedule, retry, status, cancel, grade, compare, images):
    main.add_command(command)

if __name__ == "__main__":
    main()
