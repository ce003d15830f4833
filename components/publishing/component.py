"""The publishing stage as Kubeflow Pipelines sees it."""

from kfp import dsl

from components.shared.component import stage_component


@stage_component("publishing")
def publishing(
    trajectories: dsl.Input[dsl.Dataset],
    experts: dsl.Input[dsl.Dataset],
    best_policy: dsl.Input[dsl.Model],
    results: dsl.Input[dsl.Artifact],
    page: dsl.Input[dsl.HTML],
    iteration: int,
    uri: str,
    run: str,
    manifest: dsl.Output[dsl.Artifact],
):
    """Copies the run's results to a place of the user's, in forms that other tools load directly.

    Args:
        trajectories: The trajectories that harvesting wrote.
        experts: The trajectories that RFT trained on.
        best_policy: The best policy so far.
        results: All numbers so far.
        page: The report so far.
        iteration: RLoop iteration, from 1.
        uri: Destination: s3://BUCKET/PREFIX or a folder.
        run: Name of the run; everything is published under it.
        manifest: What is published, with digests and metrics, as JSON.
    """
    from components.publishing.publish import publish
    from components.shared.stage import stage

    with stage("publishing"):
        publish(
            uri,
            run,
            iteration=iteration,
            trajectories=trajectories.path,
            experts=experts.path,
            best_policy=best_policy.path,
            results=results.path,
            page=page.path,
            manifest_out=manifest.path,
        )
