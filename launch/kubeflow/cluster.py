"""The operations that the commands need of Kubeflow Pipelines: pipeline versions, experiments, runs, recurring runs."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import kfp_server_api as api

from components.shared.errors import InputError, nearest
from launch.compiled import read_compiled
from launch.kubeflow.server import Conflict, NotFound, Server

PIPELINE_NAME = "rloop"  # must never change: KFP looks up cached results by pipeline name
_PAGE_SIZE = 50  # of list requests
_MAX_NAMED = 8  # differing parameters that a message lists


class Cluster(Server):
    """Kubeflow Pipelines, as the commands use it."""

    # Links into the UI

    def run_link(self, run_id: str) -> str:
        """Returns the URL of a run's page."""
        return f"{self.ui or 'Kubeflow UI, /pipeline'}/#/runs/details/{run_id}"

    def schedule_link(self, recurring_run_id: str) -> str:
        """Returns the URL of a recurring run's page."""
        return f"{self.ui or 'Kubeflow UI, /pipeline'}/#/recurringrun/details/{recurring_run_id}"

    # Pipelines

    def find_pipeline(self) -> Any | None:
        """Returns the pipeline `rloop`, or None."""
        found = self.read(
            f"looking for the pipeline {PIPELINE_NAME}",
            self.client.pipelines.pipeline_service_list_pipelines,
            filter=_filter("display_name", PIPELINE_NAME),
            **self._namespace_filter(),
        ).pipelines
        return found[0] if found else None

    def find_version(self, recipe: str, digest: str) -> tuple[Any | None, Any | None]:
        """Returns the pipeline and its version with this recipe name and digest; None for what is missing."""
        if (pipeline := self.find_pipeline()) is None:
            return None, None
        versions = self._pages(
            f"looking for the version {digest}",
            self.client.pipelines.pipeline_service_list_pipeline_versions,
            "pipeline_versions",
            pipeline.pipeline_id,
            filter=_filter("display_name", digest, "IS_SUBSTRING"),  # each carries its full specification
            sort_by="created_at desc",
        )
        matching = (v for v in versions if v.display_name.startswith(f"{recipe}, ") and v.display_name.endswith(digest))
        return pipeline, next(matching, None)

    def upload_version(self, recipe: str, compiled: Path) -> Any:
        """Returns the version with a recipe's compiled pipeline, uploading it if necessary."""
        digest = version_digest(compiled)
        pipeline, version = self.find_version(recipe, digest)
        if version:
            return version
        if pipeline is None:
            wanted = api.V2beta1Pipeline(name=PIPELINE_NAME, display_name=PIPELINE_NAME, namespace=self.namespace)
            create = self.client.pipelines.pipeline_service_create_pipeline
            pipeline = self.write(f"creating the pipeline {PIPELINE_NAME}", create, wanted)
        display_name = version_name(recipe, digest)
        upload = self.client.pipeline_uploads.upload_pipeline_version
        try:
            return self.write(
                f"uploading the version {display_name}",
                upload,
                str(compiled),
                # With the Kubernetes-native API, a version also needs a valid Kubernetes object name.
                name=re.sub(r"[^a-z0-9]+", "-", display_name.lower()).strip("-"),
                display_name=display_name,
                pipelineid=pipeline.pipeline_id,
            )
        except Conflict:  # uploaded by someone else in the meantime
            if (version := self.find_version(recipe, digest)[1]) is None:
                raise
            return version

    # Experiments

    def find_experiment(self, name: str) -> Any | None:
        """Returns the experiment with this name, or None."""
        found = self.read(
            f"looking for the experiment {name!r}",
            self.client.experiments.experiment_service_list_experiments,
            filter=_filter("display_name", name),
            **self._namespace_filter(),
        ).experiments
        return found[0] if found else None

    def experiment(self, name: str) -> Any:
        """Returns the experiment with this name, creating it if necessary."""
        if (found := self.find_experiment(name)) is not None:
            return found
        wanted = api.V2beta1Experiment(display_name=name, namespace=self.namespace)
        create = self.client.experiments.experiment_service_create_experiment
        return self.write(f"creating the experiment {name!r}", create, wanted)

    # Runs

    def create_run(
        self, name: str, experiment_id: str, version: Any, parameters: dict[str, Any], service_account: str | None
    ) -> Any:
        """Starts a run of a pipeline version; its pods use `service_account`, or KFP's default if None."""
        run = api.V2beta1Run(
            display_name=name,
            experiment_id=experiment_id,
            pipeline_version_reference=_reference(version),
            runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
            service_account=service_account,
        )
        return self.write(f"creating the run {name!r}", self.client.runs.run_service_create_run, run)

    def create_clone(self, name: str, run: Any, specification: dict[str, Any], description: str) -> Any:
        """Starts a run of another specification with the parameters, experiment and service account of `run`."""
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
        """Returns a run by its ID or its unique name.

        Raises:
            InputError: no run matches, or several runs have the name.
        """
        if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name_or_id.lower()):
            get = self.client.runs.run_service_get_run
            try:
                return self.read(f"reading the run {name_or_id}", get, name_or_id.lower())
            except NotFound:
                raise NotFound(f"{self.host} has no run with ID {name_or_id}") from None
        found = self._runs(filter=_filter("display_name", name_or_id))
        if not found:
            recent = sorted({run.display_name for run in self._runs()})
            hint = nearest(name_or_id, recent) if recent else " It has no runs yet."
            raise NotFound(f"{self.host} has no run named {name_or_id!r}.{hint}")
        if len(found) > 1:
            which = "".join(f"\n  {run.run_id}  {run.created_at:%Y-%m-%d %H:%M}  {run.state}" for run in found)
            raise InputError(f"{len(found)} runs are named {name_or_id!r}; select one by ID:{which}")
        return self.run(found[0].run_id)

    def same_before(self, run: Any) -> Any | None:
        """Returns the oldest recent successful run before `run` with the same version and parameters, or None."""

        def what_runs(run: Any) -> tuple[Any, Any]:
            return run.pipeline_version_reference, run.runtime_config and run.runtime_config.parameters

        same = [each for each in self._runs() if each.created_at < run.created_at and what_runs(each) == what_runs(run)]
        return next((each for each in reversed(same) if each.state == "SUCCEEDED"), None)

    def _runs(self, **query: Any) -> list[Any]:
        listed = self.read(
            "listing runs",
            self.client.runs.run_service_list_runs,
            page_size=50,
            sort_by="created_at desc",
            **query,
            **self._namespace_filter(),
        )
        return listed.runs or []

    def specification(self, run: Any) -> dict[str, Any]:
        """Returns the specification of a run: its own, or that of its pipeline version."""
        if run.pipeline_spec:
            return dict(run.pipeline_spec)
        reference = run.pipeline_version_reference
        if reference is None:
            raise InputError(f"run {run.run_id} has no pipeline: another version of Kubeflow Pipelines created it")
        version = self.read(
            f"reading the pipeline of the run {run.run_id}",
            self.client.pipelines.pipeline_service_get_pipeline_version,
            reference.pipeline_id,
            reference.pipeline_version_id,
        )
        return dict(version.pipeline_spec)

    def retry_run(self, run_id: str) -> None:
        """Retries a run's failed stages in place."""
        self.write(f"retrying the run {run_id}", self.client.runs.run_service_retry_run, run_id)

    def terminate_run(self, run_id: str) -> None:
        """Terminates a run."""
        self.write(f"canceling the run {run_id}", self.client.runs.run_service_terminate_run, run_id)

    # Recurring runs

    def schedules(self, name: str | None = None) -> list[Any]:
        """Returns the recurring runs of the pipeline `rloop`: all of them, or those with this name."""
        if (pipeline := self.find_pipeline()) is None:
            return []
        listed = self._pages(
            "listing schedules",
            self.client.recurring_runs.recurring_run_service_list_recurring_runs,
            "recurring_runs",
            **({"filter": _filter("display_name", name)} if name is not None else {}),
            **self._namespace_filter(),
        )
        ours = pipeline.pipeline_id
        return [s for s in listed if s.pipeline_version_reference and s.pipeline_version_reference.pipeline_id == ours]

    def schedule(self, name_or_id: str) -> Any:
        """Returns a recurring run of the pipeline `rloop` by its ID or its unique name.

        Raises:
            InputError: no recurring run matches, or several have the name.
        """
        existing = self.schedules()
        found = [s for s in existing if name_or_id in (s.display_name, s.recurring_run_id)]
        if not found:
            names = sorted({s.display_name for s in existing})
            hint = nearest(name_or_id, names) if names else f" {PIPELINE_NAME} has no schedules yet."
            raise NotFound(f"{self.host} has no schedule named {name_or_id!r}.{hint}")
        if len(found) > 1:
            which = "".join(f"\n  {s.recurring_run_id}  {s.created_at:%Y-%m-%d %H:%M}  {s.status}" for s in found)
            raise InputError(f"{len(found)} schedules are named {name_or_id!r}; select one by ID:{which}")
        return found[0]

    def last_run(self, schedule: Any) -> Any | None:
        """Returns the newest run that a recurring run has started, or None."""
        found = self.read(
            f"looking for the last run of the schedule {schedule.display_name!r}",
            self.client.runs.run_service_list_runs,
            page_size=1,
            sort_by="created_at desc",
            filter=_filter("recurring_run_id", schedule.recurring_run_id),
            **self._namespace_filter(),
        ).runs
        return found[0] if found else None

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
        """Creates a recurring run, without catch-up and with at most one run at a time."""
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
        """Describes how a recurring run differs from one that would be created now."""
        trigger = schedule.trigger and schedule.trigger.cron_schedule
        reference = schedule.pipeline_version_reference
        existing = schedule.runtime_config.parameters if schedule.runtime_config else {}
        changed = parameter_differences(existing or {}, parameters)
        if len(changed) > _MAX_NAMED:
            changed[_MAX_NAMED:] = [f"{len(changed) - _MAX_NAMED} more parameters"]
        differences = {
            f"cron {trigger.cron!r}" if trigger else "different trigger": not trigger or trigger.cron != cron,
            "different pipeline version": not (
                version and reference and reference.pipeline_version_id == version.pipeline_version_id
            ),
            **dict.fromkeys(changed, True),
            "different service account": service_account is not None and schedule.service_account != service_account,
            "catch-up enabled": not schedule.no_catchup,
            "more than one concurrent run": str(schedule.max_concurrency) != "1",
            "paused": schedule.status == "DISABLED",
        }
        return [difference for difference, applies in differences.items() if applies]

    def enable_schedule(self, recurring_run_id: str, enabled: bool) -> None:
        """Resumes a recurring run, or pauses it if not `enabled`."""
        runs = self.client.recurring_runs
        if enabled:
            self.write("resuming the schedule", runs.recurring_run_service_enable_recurring_run, recurring_run_id)
        else:
            self.write("pausing the schedule", runs.recurring_run_service_disable_recurring_run, recurring_run_id)

    def delete_schedule(self, recurring_run_id: str) -> None:
        """Deletes a recurring run; runs that it has started continue."""
        delete = self.client.recurring_runs.recurring_run_service_delete_recurring_run
        # By default, Kubernetes would delete the schedule's running workflows with it.
        self.write("deleting the schedule", delete, recurring_run_id, propagation_policy="ORPHAN")

    def _pages(self, action: str, method: Callable[..., Any], key: str, *arguments: Any, **named: Any) -> Iterator[Any]:
        """Yields all results of a list request, page by page."""
        page: dict[str, str] = {}
        while True:
            answer = self.read(action, method, *arguments, page_size=_PAGE_SIZE, **page, **named)
            yield from getattr(answer, key) or []
            if not answer.next_page_token:
                return
            page = {"page_token": answer.next_page_token}

    def _namespace_filter(self) -> dict[str, str]:
        return {"namespace": self.namespace} if self.namespace else {}


def version_digest(compiled: Path) -> str:
    """Returns a digest of a compiled pipeline's code and structure, which leaves out the values that each run sends."""
    documents = read_compiled(compiled)
    for parameter in documents[0]["root"].get("inputDefinitions", {}).get("parameters", {}).values():
        parameter.pop("defaultValue", None)
    # A digest of the documents, not of the bytes: kfp writes a comment with the defaults in arbitrary order.
    return hashlib.sha256(json.dumps(documents, sort_keys=True).encode()).hexdigest()[:8]


def version_name(recipe: str, digest: str) -> str:
    """Returns the display name of a version that is uploaded today: recipe, date and digest."""
    return f"{recipe}, {datetime.now():%Y-%m-%d}, {digest}"


def parameter_differences(existing: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """Lists how existing parameters differ from the wanted ones: `rl_steps 40`, `different data_train`, `no seed`."""
    differences = []
    for key in sorted({*existing, *wanted}):
        name = f"{prefix}{key}"
        if key not in existing:
            differences.append(f"no {name}")
        elif isinstance(existing[key], dict) and isinstance(wanted.get(key), dict):
            differences += parameter_differences(existing[key], wanted[key], f"{name}.")
        elif key not in wanted or existing[key] != wanted[key]:
            value = existing[key]
            differences.append(f"different {name}" if isinstance(value, dict | list) else f"{name} {value!r}")
    return differences


def _reference(version: Any) -> Any:
    return api.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.pipeline_version_id
    )


def _filter(key: str, value: str, operation: str = "EQUALS") -> str:
    return json.dumps({"predicates": [{"operation": operation, "key": key, "string_value": value}]})
