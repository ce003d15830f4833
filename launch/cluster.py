"""What the commands ask of Kubeflow Pipelines: versions by content, experiments, runs, recurring runs."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import kfp_server_api as api

from components.shared.errors import InputError, nearest
from launch.compiled import read_compiled
from launch.server import Conflict, NotFound, Server

PIPELINE_NAME = "rloop"  # KFP looks cached results up by pipeline name: it never changes


class Cluster(Server):
    """Kubeflow Pipelines, as the commands use it."""

    # Links into the UI

    def run_link(self, run_id: str) -> str:
        """The run's page."""
        return f"{self.ui or 'Kubeflow UI, /pipeline'}/#/runs/details/{run_id}"

    def schedule_link(self, recurring_run_id: str) -> str:
        """The recurring run's page."""
        return f"{self.ui or 'Kubeflow UI, /pipeline'}/#/recurringrun/details/{recurring_run_id}"

    # Pipelines

    def find_version(self, name: str) -> tuple[Any | None, Any | None]:
        """The pipeline and its version of a name, each None where there is none."""
        pipelines = self.client.pipelines
        found = self.read(
            f"looking for the pipeline {PIPELINE_NAME}",
            pipelines.pipeline_service_list_pipelines,
            filter=_named(PIPELINE_NAME),
            **self._in_namespace(),
        ).pipelines
        if not found:
            return None, None
        versions = self.read(
            f"looking for the version {name}",
            pipelines.pipeline_service_list_pipeline_versions,
            found[0].pipeline_id,
            filter=_named(name),
        ).pipeline_versions
        return found[0], versions[0] if versions else None

    def upload_version(self, compiled: Path) -> Any:
        """The version that holds a compiled pipeline, uploaded unless it is there."""
        name = version_name(compiled)
        pipeline, version = self.find_version(name)
        if version:
            return version
        if pipeline is None:
            wanted = api.V2beta1Pipeline(name=PIPELINE_NAME, display_name=PIPELINE_NAME, namespace=self.namespace)
            create = self.client.pipelines.pipeline_service_create_pipeline
            pipeline = self.write(f"creating the pipeline {PIPELINE_NAME}", create, wanted)
        upload = self.client.pipeline_uploads.upload_pipeline_version
        try:
            return self.write(
                f"uploading the version {name}", upload, str(compiled), name=name, pipelineid=pipeline.pipeline_id
            )
        except Conflict:  # someone else has just uploaded it
            if (version := self.find_version(name)[1]) is None:
                raise
            return version

    # Experiments

    def find_experiment(self, name: str) -> Any | None:
        """The experiment of a name."""
        found = self.read(
            f"looking for the experiment {name!r}",
            self.client.experiments.experiment_service_list_experiments,
            filter=_named(name),
            **self._in_namespace(),
        ).experiments
        return found[0] if found else None

    def experiment(self, name: str) -> Any:
        """The experiment of a name, created unless it is there."""
        if (found := self.find_experiment(name)) is not None:
            return found
        wanted = api.V2beta1Experiment(display_name=name, namespace=self.namespace)
        create = self.client.experiments.experiment_service_create_experiment
        return self.write(f"creating the experiment {name!r}", create, wanted)

    # Runs

    def create_run(
        self, name: str, experiment_id: str, version: Any, parameters: dict[str, Any], service_account: str | None
    ) -> Any:
        """Starts a run of a pipeline version; its pods run as the account, KFP's own if None."""
        run = api.V2beta1Run(
            display_name=name,
            experiment_id=experiment_id,
            pipeline_version_reference=_reference(version),
            runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
            service_account=service_account,
        )
        return self.write(f"creating the run {name!r}", self.client.runs.run_service_create_run, run)

    def create_clone(self, name: str, run: Any, specification: dict[str, Any], description: str) -> Any:
        """Starts a run with a run's parameters, experiment and service account, of another specification."""
        clone = api.V2beta1Run(
            display_name=name,
            description=description,
            experiment_id=run.experiment_id,
            pipeline_spec=specification,
            runtime_config=run.runtime_config,
            service_account=run.service_account,
        )
        return self.write(f"creating the run {name!r}", self.client.runs.run_service_create_run, clone)

    def run(self, name_or_id: str) -> Any:
        """A run by its id, or by its name where one run alone bears it.

        Raises:
            InputError: there is none, or several of the name.
        """
        if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name_or_id.lower()):
            get = self.client.runs.run_service_get_run
            try:
                return self.read(f"reading the run {name_or_id}", get, name_or_id.lower())
            except NotFound:
                raise NotFound(f"{self.host} has no run with the id {name_or_id}") from None
        same = self._runs(filter=_named(name_or_id))
        if not same:
            recent = sorted({run.display_name for run in self._runs()})
            hint = nearest(name_or_id, recent) if recent else " It has no runs yet."
            raise NotFound(f"{self.host} has no run called {name_or_id!r}.{hint}")
        if len(same) > 1:
            which = "".join(f"\n  {run.run_id}  {run.created_at:%Y-%m-%d %H:%M}  {run.state}" for run in same)
            raise InputError(f"{len(same)} runs are called {name_or_id!r}; name one by its id:{which}")
        return self.run(same[0].run_id)

    def _runs(self, **query: Any) -> list[Any]:
        listed = self.read(
            "listing runs",
            self.client.runs.run_service_list_runs,
            page_size=50,
            sort_by="created_at desc",
            **query,
            **self._in_namespace(),
        )
        return listed.runs or []

    def specification(self, run: Any) -> dict[str, Any]:
        """What a run runs: its own pipeline, or that of its version."""
        if run.pipeline_spec:
            return dict(run.pipeline_spec)
        reference = run.pipeline_version_reference
        if reference is None:
            raise InputError(f"the run {run.run_id} names no pipeline: it is not of this version of Kubeflow Pipelines")
        version = self.read(
            f"reading the pipeline of the run {run.run_id}",
            self.client.pipelines.pipeline_service_get_pipeline_version,
            reference.pipeline_id,
            reference.pipeline_version_id,
        )
        return dict(version.pipeline_spec)

    def retry_run(self, run_id: str) -> None:
        """Runs what failed of a run again, in place."""
        self.write(f"retrying the run {run_id}", self.client.runs.run_service_retry_run, run_id)

    def terminate_run(self, run_id: str) -> None:
        """Ends a run."""
        self.write(f"cancelling the run {run_id}", self.client.runs.run_service_terminate_run, run_id)

    # Recurring runs

    def find_schedules(self, name: str) -> list[Any]:
        """The recurring runs of a name."""
        listed = self.read(
            f"looking for the schedule {name!r}",
            self.client.recurring_runs.recurring_run_service_list_recurring_runs,
            filter=_named(name),
            page_size=50,
            **self._in_namespace(),
        )
        return listed.recurring_runs or []

    def create_schedule(
        self,
        name: str,
        description: str,
        experiment_id: str,
        version: Any,
        cron: str,
        parameters: dict[str, Any],
        service_account: str | None,
    ) -> Any:
        """Creates a recurring run: missed ticks are not caught up, and a tick waits for the run before it."""
        schedule = api.V2beta1RecurringRun(
            display_name=name,
            description=description,
            experiment_id=experiment_id,
            pipeline_version_reference=_reference(version),
            runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
            trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron)),
            mode=api.RecurringRunMode.ENABLE,
            no_catchup=True,
            max_concurrency="1",
            service_account=service_account,
        )
        create = self.client.recurring_runs.recurring_run_service_create_recurring_run
        return self.write(f"creating the schedule {name!r}", create, schedule)

    @staticmethod
    def schedule_differences(
        schedule: Any, version: Any, cron: str, parameters: dict[str, Any], service_account: str | None
    ) -> list[str]:
        """What a recurring run has otherwise than one that would be created now, in words."""
        trigger = schedule.trigger and schedule.trigger.cron_schedule
        reference = schedule.pipeline_version_reference
        there = schedule.runtime_config.parameters if schedule.runtime_config else {}
        differences = {
            f"the cron {trigger.cron!r}" if trigger else "another trigger": not trigger or trigger.cron != cron,
            "another pipeline version": not (
                version and reference and reference.pipeline_version_id == version.pipeline_version_id
            ),
            "other parameters": (there or {}) != parameters,
            "another service account": service_account is not None and schedule.service_account != service_account,
            "catch-up": not schedule.no_catchup,
            "more than one run at a time": str(schedule.max_concurrency) != "1",
            "its ticks switched off": schedule.status == "DISABLED",
        }
        return [what for what, differs in differences.items() if differs]

    def delete_schedule(self, recurring_run_id: str) -> None:
        """Deletes a recurring run, and leaves what it has started running."""
        delete = self.client.recurring_runs.recurring_run_service_delete_recurring_run
        # By default Kubernetes deletes a schedule's running workflows with it.
        self.write("deleting the earlier schedule", delete, recurring_run_id, propagation_policy="ORPHAN")

    def _in_namespace(self) -> dict[str, str]:
        return {"namespace": self.namespace} if self.namespace else {}


def version_name(compiled: Path) -> str:
    """The name of the pipeline version that holds a compiled pipeline: a digest, the same for the same content."""
    # Of the documents, not of the bytes: kfp writes the parameters' defaults in any order into a comment.
    return hashlib.sha256(json.dumps(read_compiled(compiled), sort_keys=True).encode()).hexdigest()[:16]


def _reference(version: Any) -> Any:
    return api.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.pipeline_version_id
    )


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "string_value": name}]})
