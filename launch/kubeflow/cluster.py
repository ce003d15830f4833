"""What the commands ask of Kubeflow Pipelines: versions by content, experiments, runs, recurring runs."""

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

PIPELINE_NAME = "rloop"  # KFP looks cached results up by pipeline name: it never changes
_PAGE = 50  # things that a list request gives at once
_NAMED = 8  # parameters that a message names


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

    def find_pipeline(self) -> Any | None:
        """The pipeline `rloop`."""
        found = self.read(
            f"looking for the pipeline {PIPELINE_NAME}",
            self.client.pipelines.pipeline_service_list_pipelines,
            filter=_where("display_name", PIPELINE_NAME),
            **self._in_namespace(),
        ).pipelines
        return found[0] if found else None

    def find_version(self, recipe: str, digest: str) -> tuple[Any | None, Any | None]:
        """The pipeline and its version of a recipe's name and a digest, whatever its date; None where there is none."""
        if (pipeline := self.find_pipeline()) is None:
            return None, None
        versions = self._pages(
            f"looking for the version {digest}",
            self.client.pipelines.pipeline_service_list_pipeline_versions,
            "pipeline_versions",
            pipeline.pipeline_id,
            filter=_where("display_name", digest, "IS_SUBSTRING"),  # each comes with its whole pipeline
            sort_by="created_at desc",
        )
        same = (v for v in versions if v.display_name.startswith(f"{recipe}, ") and v.display_name.endswith(digest))
        return pipeline, next(same, None)

    def upload_version(self, recipe: str, compiled: Path) -> Any:
        """The version that holds a recipe's compiled pipeline, uploaded unless it is there."""
        digest = version_digest(compiled)
        pipeline, version = self.find_version(recipe, digest)
        if version:
            return version
        if pipeline is None:
            wanted = api.V2beta1Pipeline(name=PIPELINE_NAME, display_name=PIPELINE_NAME, namespace=self.namespace)
            create = self.client.pipelines.pipeline_service_create_pipeline
            pipeline = self.write(f"creating the pipeline {PIPELINE_NAME}", create, wanted)
        shown = version_name(recipe, digest)
        upload = self.client.pipeline_uploads.upload_pipeline_version
        try:
            return self.write(
                f"uploading the version {shown}",
                upload,
                str(compiled),
                # Where Kubernetes keeps the versions, it wants a name of its kind beside the one that people see.
                name=re.sub(r"[^a-z0-9]+", "-", shown.lower()).strip("-"),
                display_name=shown,
                pipelineid=pipeline.pipeline_id,
            )
        except Conflict:  # someone else has just uploaded it
            if (version := self.find_version(recipe, digest)[1]) is None:
                raise
            return version

    # Experiments

    def find_experiment(self, name: str) -> Any | None:
        """The experiment of a name."""
        found = self.read(
            f"looking for the experiment {name!r}",
            self.client.experiments.experiment_service_list_experiments,
            filter=_where("display_name", name),
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
        same = self._runs(filter=_where("display_name", name_or_id))
        if not same:
            recent = sorted({run.display_name for run in self._runs()})
            hint = nearest(name_or_id, recent) if recent else " It has no runs yet."
            raise NotFound(f"{self.host} has no run called {name_or_id!r}.{hint}")
        if len(same) > 1:
            which = "".join(f"\n  {run.run_id}  {run.created_at:%Y-%m-%d %H:%M}  {run.state}" for run in same)
            raise InputError(f"{len(same)} runs are called {name_or_id!r}; name one by its id:{which}")
        return self.run(same[0].run_id)

    def same_before(self, run: Any) -> Any | None:
        """The first of the newest runs that ended well before a run, with its pipeline version and its parameters."""

        def of(one: Any) -> tuple[Any, Any]:
            return one.pipeline_version_reference, one.runtime_config and one.runtime_config.parameters

        same = [one for one in self._runs() if one.created_at < run.created_at and of(one) == of(run)]
        return next((one for one in reversed(same) if one.state == "SUCCEEDED"), None)

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

    def schedules(self, name: str | None = None) -> list[Any]:
        """The recurring runs of the pipeline `rloop`, all or those of a name."""
        if (pipeline := self.find_pipeline()) is None:
            return []
        listed = self._pages(
            "listing schedules",
            self.client.recurring_runs.recurring_run_service_list_recurring_runs,
            "recurring_runs",
            **({"filter": _where("display_name", name)} if name is not None else {}),
            **self._in_namespace(),
        )
        ours = pipeline.pipeline_id
        return [s for s in listed if s.pipeline_version_reference and s.pipeline_version_reference.pipeline_id == ours]

    def schedule(self, name_or_id: str) -> Any:
        """A recurring run of the pipeline `rloop`, by its id, or by its name where one alone bears it.

        Raises:
            InputError: there is none, or several of the name.
        """
        there = self.schedules()
        found = [s for s in there if name_or_id in (s.display_name, s.recurring_run_id)]
        if not found:
            names = sorted({s.display_name for s in there})
            hint = nearest(name_or_id, names) if names else f" {PIPELINE_NAME} has no schedules yet."
            raise NotFound(f"{self.host} has no schedule called {name_or_id!r}.{hint}")
        if len(found) > 1:
            which = "".join(f"\n  {s.recurring_run_id}  {s.created_at:%Y-%m-%d %H:%M}  {s.status}" for s in found)
            raise InputError(f"{len(found)} schedules are called {name_or_id!r}; name one by its id:{which}")
        return found[0]

    def last_run(self, schedule: Any) -> Any | None:
        """The newest run that a recurring run has started."""
        found = self.read(
            f"looking for the last run of the schedule {schedule.display_name!r}",
            self.client.runs.run_service_list_runs,
            page_size=1,
            sort_by="created_at desc",
            filter=_where("recurring_run_id", schedule.recurring_run_id),
            **self._in_namespace(),
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
        changed = parameter_differences(there or {}, parameters)
        if len(changed) > _NAMED:
            changed[_NAMED:] = [f"{len(changed) - _NAMED} more parameters that differ"]
        differences = {
            f"the cron {trigger.cron!r}" if trigger else "another trigger": not trigger or trigger.cron != cron,
            "another pipeline version": not (
                version and reference and reference.pipeline_version_id == version.pipeline_version_id
            ),
            **dict.fromkeys(changed, True),
            "another service account": service_account is not None and schedule.service_account != service_account,
            "catch-up": not schedule.no_catchup,
            "more than one run at a time": str(schedule.max_concurrency) != "1",
            "its ticks paused": schedule.status == "DISABLED",
        }
        return [what for what, differs in differences.items() if differs]

    def switch_schedule(self, recurring_run_id: str, on: bool) -> None:
        """Pauses a recurring run, or resumes it."""
        runs = self.client.recurring_runs
        if on:
            self.write("resuming the schedule", runs.recurring_run_service_enable_recurring_run, recurring_run_id)
        else:
            self.write("pausing the schedule", runs.recurring_run_service_disable_recurring_run, recurring_run_id)

    def delete_schedule(self, recurring_run_id: str) -> None:
        """Deletes a recurring run, and leaves what it has started running."""
        delete = self.client.recurring_runs.recurring_run_service_delete_recurring_run
        # By default Kubernetes deletes a schedule's running workflows with it.
        self.write("deleting the schedule", delete, recurring_run_id, propagation_policy="ORPHAN")

    def _pages(self, doing: str, method: Callable[..., Any], key: str, *arguments: Any, **named: Any) -> Iterator[Any]:
        """All that a list request has, page by page."""
        page: dict[str, str] = {}
        while True:
            answer = self.read(doing, method, *arguments, page_size=_PAGE, **page, **named)
            yield from getattr(answer, key) or []
            if not answer.next_page_token:
                return
            page = {"page_token": answer.next_page_token}

    def _in_namespace(self) -> dict[str, str]:
        return {"namespace": self.namespace} if self.namespace else {}


def version_digest(compiled: Path) -> str:
    """What tells versions apart: code and structure of a compiled pipeline, not the values that a run sends along."""
    documents = read_compiled(compiled)
    for parameter in documents[0]["root"].get("inputDefinitions", {}).get("parameters", {}).values():
        parameter.pop("defaultValue", None)
    # Of the documents, not of the bytes: kfp writes the parameters' defaults in any order into a comment.
    return hashlib.sha256(json.dumps(documents, sort_keys=True).encode()).hexdigest()[:8]


def version_name(recipe: str, digest: str) -> str:
    """What people see of a version that is uploaded today: recipe, date and digest."""
    return f"{recipe}, {datetime.now():%Y-%m-%d}, {digest}"


def parameter_differences(there: dict[str, Any], wanted: dict[str, Any], above: str = "") -> list[str]:
    """What parameters hold otherwise than wanted, in words: `rl_steps 40`, `another data_train`, `no seed`."""
    said = []
    for key in sorted({*there, *wanted}):
        name = f"{above}{key}"
        if key not in there:
            said.append(f"no {name}")
        elif isinstance(there[key], dict) and isinstance(wanted.get(key), dict):
            said += parameter_differences(there[key], wanted[key], f"{name}.")
        elif key not in wanted or there[key] != wanted[key]:
            value = there[key]
            said.append(f"another {name}" if isinstance(value, dict | list) else f"{name} {value!r}")
    return said


def _reference(version: Any) -> Any:
    return api.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.pipeline_version_id
    )


def _where(key: str, value: str, operation: str = "EQUALS") -> str:
    return json.dumps({"predicates": [{"operation": operation, "key": key, "string_value": value}]})
