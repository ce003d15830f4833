"""The preflight stage as Kubeflow Pipelines sees it."""

from kfp import dsl


@dsl.component(base_image="rloop-preflight", install_kfp_package=False)
def preflight(
    base_policy_uri: str,
    train: list,
    benchmarks: list,
    steps: int,
    prompts_per_step: int,
    group_size: int,
    settings: dict,
    accelerator_memory_gib: float,
    refresh: str,
    data_version: dsl.OutputPath(str),  # type: ignore[valid-type]
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Looks at everything the run needs before a GPU is asked for, and names the version of the data.

    Args:
        base_policy_uri: A Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].
        train: Sources of training problems.
        benchmarks: Benchmarks, each with a name and a uri.
        steps: RL steps of an iteration.
        prompts_per_step: Prompts sampled at each RL step.
        group_size: Completions a prompt.
        settings: The rest of the recipe's rl section.
        accelerator_memory_gib: Of one accelerator of the training pool; 0 if not known.
        refresh: Any text; a new one makes preflight look again. A schedule passes the time of its tick.
        data_version: A digest of what the sources and the base policy hold now.
        page: What was found, and the estimates.
        metrics: The estimates.
    """
    from components.preflight.check import preflight as check
    from components.preflight.check import write_version
    from components.preflight.settings import RunSize
    from components.shared.sources import keyed_sources
    from components.shared.stage import log_metrics, stage

    with stage("preflight"):
        keys = {"steps": steps, "prompts_per_step": prompts_per_step, "group_size": group_size}
        version, figures = check(
            base_policy_uri,
            keyed_sources(train, benchmarks),
            RunSize.check({**settings, **keys}, "rl"),
            accelerator_memory_gib=accelerator_memory_gib,
            page_out=page.path,
        )
        log_metrics(metrics, figures)
        write_version(data_version, version)
