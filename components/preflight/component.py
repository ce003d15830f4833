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
    """Checks everything the run needs before it requests a GPU, and gives each stage its settings.

    Args:
        base_policy_uri: A Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].
        seed: Seed for all sampling and shuffling.
        data_train: Sources of training problems.
        data_benchmarks: Benchmarks, each with a name and a uri.
        rl_steps: RL steps per iteration.
        rl_learning_rate: Peak learning rate of RL.
        filter_max_success_rate: A problem counts as hard at or below this success rate.
        rft_learning_rate: Peak learning rate of RFT.
        rft_epochs: Passes over the experts.
        eval_samples: Completions per problem in evaluation.
        pools: For each pool: node_selector, tolerations, accelerator_memory_gib.
        advanced: For each section of the recipe: the keys that are not pipeline parameters of their own.
        data_version: Digest of the current contents of the sources and the base policy.
        preparation_settings: Settings of data preparation.
        exploration_settings: Settings of RL exploration.
        filtering_settings: Settings of verification filtering.
        rft_settings: Settings of RFT.
        evaluation_settings: Settings of evaluation.
        report_settings: Settings of the report.
        cpu_nodes: Node selector of the CPU pool.
        cpu_taints: Tolerations for the taints of the CPU pool's nodes.
        training_nodes: Node selector of the training pool.
        training_taints: Tolerations for the taints of the training pool's nodes.
        inference_nodes: Node selector of the inference pool.
        inference_taints: Tolerations for the taints of the inference pool's nodes.
        page: The findings and the estimates.
        earlier_results: Final results of the run that this one continues.
        earlier_iterations: Number of iterations of that run.
    """
    from components.preflight.check import run_preflight
    from components.shared.stage import stage

    parameters = {
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
    with stage("preflight"):
        earlier = (earlier_results.path, earlier_iterations) if earlier_results else None
        run_preflight(base_policy_uri, parameters, outputs, earlier, page_out=page.path, artifact_uri=page.uri)
