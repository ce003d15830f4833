"""The preflight stage as Kubeflow Pipelines sees it."""

from kfp import dsl

from components.shared.component import stage_component


@stage_component("preflight")
def preflight(
    base_policy_uri: str,
    seed: int,
    data_train: list,
    data_benchmarks: list,
    rl_steps: int,
    rl_learning_rate: float,
    filter_max_success_rate: float,
    rft_learning_rate: float,
    rft_epochs: float,
    eval_samples: int,
    pools: dict,
    advanced: dict,
    data_version: dsl.OutputPath(str),  # type: ignore[valid-type]
    preparation_settings: dsl.OutputPath(dict),  # type: ignore[valid-type]
    exploration_settings: dsl.OutputPath(dict),  # type: ignore[valid-type]
    filtering_settings: dsl.OutputPath(dict),  # type: ignore[valid-type]
    rft_settings: dsl.OutputPath(dict),  # type: ignore[valid-type]
    evaluation_settings: dsl.OutputPath(dict),  # type: ignore[valid-type]
    report_settings: dsl.OutputPath(dict),  # type: ignore[valid-type]
    cpu_nodes: dsl.OutputPath(dict),  # type: ignore[valid-type]
    cpu_taints: dsl.OutputPath(list),  # type: ignore[valid-type]
    training_nodes: dsl.OutputPath(dict),  # type: ignore[valid-type]
    training_taints: dsl.OutputPath(list),  # type: ignore[valid-type]
    inference_nodes: dsl.OutputPath(dict),  # type: ignore[valid-type]
    inference_taints: dsl.OutputPath(list),  # type: ignore[valid-type]
    page: dsl.Output[dsl.HTML],
    earlier_results: dsl.Input[dsl.Artifact] = None,
    earlier_iterations: int = 0,
):
    """Looks at everything the run needs before a GPU is asked for, and hands each stage its settings.

    Args:
        base_policy_uri: A Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].
        seed: Of all sampling and shuffling.
        data_train: Sources of training problems.
        data_benchmarks: Benchmarks, each with a name and a uri.
        rl_steps: RL steps of an iteration.
        rl_learning_rate: Peak learning rate of RL.
        filter_max_success_rate: A problem is hard at or below this success rate.
        rft_learning_rate: Peak learning rate of RFT.
        rft_epochs: Passes over the experts.
        eval_samples: Completions a problem in evaluation.
        pools: By pool: node_selector, tolerations, accelerator_memory_gib.
        advanced: By section of the recipe: the keys that are no parameters of their own.
        data_version: A digest of what the sources and the base policy hold now.
        preparation_settings: What data preparation goes by.
        exploration_settings: What RL exploration goes by.
        filtering_settings: What verification filtering goes by.
        rft_settings: What RFT goes by.
        evaluation_settings: What evaluation goes by.
        report_settings: What the report goes by.
        cpu_nodes: Labels of the CPU pool's nodes.
        cpu_taints: Taints of those nodes that pods accept.
        training_nodes: Labels of the training pool's nodes.
        training_taints: Taints of those nodes that pods accept.
        inference_nodes: Labels of the inference pool's nodes.
        inference_taints: Taints of those nodes that pods accept.
        page: What was found, and the estimates.
        earlier_results: The last results of the run that this one goes on from.
        earlier_iterations: The iterations of that run.
    """
    from components.preflight.check import preflight as check
    from components.preflight.check import write_parameter
    from components.preflight.earlier import check_earlier
    from components.preflight.resolve import resolve
    from components.preflight.settings import RunSize
    from components.shared.data.sources import keyed_sources
    from components.shared.grading import GradingSettings
    from components.shared.stage import stage

    with stage("preflight"):
        settings = resolve(
            {
                "seed": seed,
                "data_train": data_train,
                "data_benchmarks": data_benchmarks,
                "rl_steps": rl_steps,
                "rl_learning_rate": rl_learning_rate,
                "filter_max_success_rate": filter_max_success_rate,
                "rft_learning_rate": rft_learning_rate,
                "rft_epochs": rft_epochs,
                "eval_samples": eval_samples,
                "pools": pools,
                "advanced": advanced,
            }
        )
        if earlier_results:
            check_earlier(earlier_results.path, earlier_iterations, base_policy_uri, settings)
        version, _ = check(
            base_policy_uri,
            keyed_sources(data_train, data_benchmarks),
            RunSize.check(settings["exploration_settings"]["rl"], "rl"),
            accelerator_memory_gib=pools.get("training", {}).get("accelerator_memory_gib", 0),
            page_out=page.path,
            artifact_uri=page.uri,
            cache_generation=(advanced.get("store") or {}).get("cache_generation", 0),
            grading=GradingSettings.check(settings["preparation_settings"]["grading"], "grading"),
            prompt_template=settings["preparation_settings"]["data"].get("prompt_template"),
        )
        outputs = {
            "data_version": data_version,
            "preparation_settings": preparation_settings,
            "exploration_settings": exploration_settings,
            "filtering_settings": filtering_settings,
            "rft_settings": rft_settings,
            "evaluation_settings": evaluation_settings,
            "report_settings": report_settings,
            "cpu_nodes": cpu_nodes,
            "cpu_taints": cpu_taints,
            "training_nodes": training_nodes,
            "training_taints": training_taints,
            "inference_nodes": inference_nodes,
            "inference_taints": inference_taints,
        }
        for name, path in outputs.items():
            write_parameter(path, {**settings, "data_version": version}[name])
