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
    """Copies what people want of the run to a place of their own, where it can be loaded as it is.

    Args:
        trajectories: What harvesting gathered.
        experts: The trajectories that RFT learnt from.
        best_policy: The best policy so far.
        results: Every number so far.
        page: The report so far.
        iteration: Of RLoop, from 1.
        uri: Where to: s3://BUCKET/PREFIX or a folder.
        run: Name of the run, under which everything lies.
        manifest: What is there, with digests and metrics, as JSON.
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
