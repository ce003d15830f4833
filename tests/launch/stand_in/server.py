"""A small, strict server that implements the part of Kubeflow Pipelines' v2beta1 REST API that the commands use.

Requests are checked against kfp_server_api's own models: an unknown field, a wrong type or a missing required field
results in a 400. Responses are instances of those models. Rules and states follow the API server's source and recorded
responses of a real server: unique names of pipelines and versions, one namespace per user or none at all, which runs
can be retried or terminated. Runs are executed along their pipeline: workflow.py and argo.py implement Argo, driver.py
and metadata.py KFP's driver and cache, rows.py what the API reports of them, http.py the HTTP layer.
"""

import email.message
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

import kfp_server_api as api
import yaml

from tests.launch.stand_in.http import Fault, Handler
from tests.launch.stand_in.models import Refusal, checked, listed, next_token
from tests.launch.stand_in.runs import Runs

__all__ = ["SECRET", "FakeKfp", "Fault"]
SECRET = "s3cr3t-token"  # must not appear in any output
_LIST = {"page_token", "page_size", "sort_by", "filter"}


@dataclass
class FakeKfp(Runs):
    """The state of the server, and controls for tests."""

    multi_user: bool = False
    token: str = ""
    cookie: str = ""
    pipelines: dict[str, Any] = field(default_factory=dict)
    experiments: dict[str, Any] = field(default_factory=dict)
    schedules: dict[str, Any] = field(default_factory=dict)
    deletions: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "FakeKfp":
        fake = self

        class OwnHandler(Handler):
            kfp = fake

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), OwnHandler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        self.host = f"http://127.0.0.1:{self._http.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def writes(self) -> list[tuple[str, str]]:
        """Returns the requests other than GET."""
        return [request for request in self.requests if request[0] != "GET"]

    def tick(self, schedule_id: str) -> str:
        """Starts a run of a schedule; returns its ID. KFP passes parameters unchanged, even `[[ScheduledTime]]`."""
        schedule = self.schedules[schedule_id]
        run = api.V2beta1Run(
            display_name=f"Run of {schedule.display_name} ({schedule_id[:5]})",
            experiment_id=schedule.experiment_id,
            pipeline_version_reference=schedule.pipeline_version_reference,
            runtime_config=schedule.runtime_config,
            service_account=schedule.service_account,
            recurring_run_id=schedule_id,
        )
        return str(self._started(run).run_id)

    # The API

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """Returns the response to a request, a model or a dictionary.

        Raises:
            Refusal: the status is not 200.
        """
        for verb, pattern, allowed, action in self._routes():
            match = re.fullmatch(pattern, path)
            if verb == method and match:
                if unknown := query.keys() - allowed:
                    raise Refusal(400, f"unknown query parameters {sorted(unknown)}")
                return action(*match.groups(), query, body)
        raise Refusal(404, f"Not Found: {method} {path}")

    def _routes(self) -> list[tuple[str, str, set[str], Callable[..., Any]]]:
        at = "/apis/v2beta1"
        return [
            ("GET", f"{at}/healthz", set(), self._health),
            ("GET", f"{at}/pipelines", {*_LIST, "namespace"}, self._list_pipelines),
            ("POST", f"{at}/pipelines", set(), self._create_pipeline),
            ("POST", f"{at}/pipelines/upload", {"name", "display_name", "description", "namespace"}, self._upload),
            (
                "POST",
                f"{at}/pipelines/upload_version",
                {"name", "display_name", "pipelineid", "description"},
                self._upload_version,
            ),
            ("GET", f"{at}/pipelines/([^/]+)/versions", _LIST, self._list_versions),
            ("GET", f"{at}/pipelines/([^/]+)/versions/([^/]+)", set(), self._get_version),
            ("GET", f"{at}/experiments", {*_LIST, "namespace"}, self._list_experiments),
            ("POST", f"{at}/experiments", set(), self._create_experiment),
            ("GET", f"{at}/runs", {*_LIST, "namespace", "experiment_id"}, self._list_runs),
            ("POST", f"{at}/runs", {"experiment_id"}, self._create_run),
            ("GET", f"{at}/runs/([^/:]+)", set(), self._get_run),
            ("GET", "/apis/v1beta1/runs/([^/:]+)", set(), self._older_run),
            ("POST", f"{at}/runs/([^/:]+):retry", set(), self._retry),
            ("POST", f"{at}/runs/([^/:]+):terminate", set(), self._terminate),
            ("GET", f"{at}/recurringruns", {*_LIST, "namespace", "experiment_id"}, self._list_schedules),
            ("POST", f"{at}/recurringruns", set(), self._create_schedule),
            ("POST", f"{at}/recurringruns/([^/:]+):(enable|disable)", set(), self._switch),
            ("DELETE", f"{at}/recurringruns/([^/:]+)", {"propagation_policy"}, self._delete_schedule),
        ]

    def _health(self, query: dict[str, str], body: Any) -> Any:
        return api.V2beta1GetHealthzResponse(multi_user=self.multi_user, pipeline_store="database")

    def _list_pipelines(self, query: dict[str, str], body: Any) -> Any:
        self._check_namespace(query.get("namespace"))
        found = [p for p in self.pipelines.values() if (p.namespace or "") == query.get("namespace", "")]
        return api.V2beta1ListPipelinesResponse(pipelines=listed(found, query))

    def _create_pipeline(self, query: dict[str, str], body: Any) -> Any:
        wanted = checked(body, "V2beta1Pipeline", {"display_name"})
        self._check_namespace(wanted.namespace)
        name = wanted.name or wanted.display_name
        if any((p.name, p.namespace) == (name, wanted.namespace) for p in self.pipelines.values()):
            raise Refusal(409, f"Already exist error: The name {name} already exist")
        wanted.pipeline_id, wanted.created_at = str(uuid.uuid4()), self.clock
        return self.pipelines.setdefault(wanted.pipeline_id, wanted)

    def _upload(self, query: dict[str, str], body: Any) -> Any:
        name = query.get("name") or query.get("display_name")
        pipeline = self._create_pipeline({}, {"name": name, "display_name": name} | _only(query, "namespace"))
        self._upload_version({"name": name, "pipelineid": pipeline.pipeline_id}, body)
        return pipeline

    def _upload_version(self, query: dict[str, str], body: Any) -> Any:
        pipeline_id, name = query.get("pipelineid", ""), query.get("name", "")
        if pipeline_id not in self.pipelines or not isinstance(body, email.message.Message) or not name:
            raise Refusal(400, "Failed to create a pipeline version")
        parts = {p.get_param("name", header="content-disposition"): p for p in body.iter_parts()}
        if set(parts) != {"uploadfile"} or not str(parts["uploadfile"].get_filename()).endswith(".yaml"):
            raise Refusal(400, "Failed to create a pipeline version. Error parsing pipeline spec filename")
        documents = list(yaml.safe_load_all(parts["uploadfile"].get_payload(decode=True)))
        if any((v.name, v.pipeline_id) == (name, pipeline_id) for v in self.versions.values()):
            raise Refusal(409, "Failed to create a pipeline version")
        spec = documents[0]
        if len(documents) > 1:
            spec = {"pipeline_spec": documents[0], "platform_spec": documents[1]}
        version = api.V2beta1PipelineVersion(
            pipeline_id=pipeline_id,
            pipeline_version_id=str(uuid.uuid4()),
            name=name,
            display_name=query.get("display_name", name),
            created_at=self.clock,
            pipeline_spec=spec,
        )
        return self.versions.setdefault(version.pipeline_version_id, version)

    def _list_versions(self, pipeline_id: str, query: dict[str, str], body: Any) -> Any:
        found = [v for v in self.versions.values() if v.pipeline_id == pipeline_id]
        return api.V2beta1ListPipelineVersionsResponse(
            pipeline_versions=listed(found, query), next_page_token=next_token(found, query)
        )

    def _get_version(self, pipeline_id: str, version_id: str, query: dict[str, str], body: Any) -> Any:
        if version_id not in self.versions:
            raise Refusal(404, f"PipelineVersion {version_id} not found")
        return self.versions[version_id]

    def _list_experiments(self, query: dict[str, str], body: Any) -> Any:
        self._check_namespace(query.get("namespace"))
        found = [e for e in self.experiments.values() if (e.namespace or "") == query.get("namespace", "")]
        return api.V2beta1ListExperimentsResponse(experiments=listed(found, query))

    def _create_experiment(self, query: dict[str, str], body: Any) -> Any:
        wanted = checked(body, "V2beta1Experiment", {"display_name"})
        self._check_namespace(wanted.namespace)
        wanted.experiment_id, wanted.created_at = str(uuid.uuid4()), self.clock
        return self.experiments.setdefault(wanted.experiment_id, wanted)

    def _list_schedules(self, query: dict[str, str], body: Any) -> Any:
        self._check_namespace(query.get("namespace"))
        found = list(self.schedules.values())
        shown = listed(found, query)
        return api.V2beta1ListRecurringRunsResponse(
            recurring_runs=shown, next_page_token=next_token(found, query), total_size=len(found) or None
        )

    def _create_schedule(self, query: dict[str, str], body: Any) -> Any:
        wanted = checked(body, "V2beta1RecurringRun", {"display_name", "trigger", "mode", "max_concurrency"})
        self._check_source(wanted)
        if not 1 <= int(wanted.max_concurrency) <= 10:
            raise Refusal(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
        fields = wanted.trigger.cron_schedule.cron.split()
        if len(fields) != 6 or not all(re.fullmatch(r"[\d*?/,a-z-]+", each) for each in fields):
            raise Refusal(400, "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron)")
        self._check_parameters(wanted, self._version_of(wanted).pipeline_spec)
        wanted.recurring_run_id, wanted.created_at, wanted.updated_at = str(uuid.uuid4()), self.clock, self.clock
        wanted.namespace = wanted.namespace or "kubeflow"
        wanted.status = "ENABLED" if wanted.mode == "ENABLE" else "DISABLED"
        return self.schedules.setdefault(wanted.recurring_run_id, wanted)

    def _switch(self, schedule_id: str, way: str, query: dict[str, str], body: Any) -> Any:
        if schedule_id not in self.schedules:
            raise Refusal(404, f"Job {schedule_id} not found")
        self.schedules[schedule_id].status = way.upper() + "D"
        return {}

    def _delete_schedule(self, schedule_id: str, query: dict[str, str], body: Any) -> Any:
        if self.schedules.pop(schedule_id, None) is None:
            raise Refusal(404, f"Job {schedule_id} not found")
        self.deletions.append(query.get("propagation_policy", ""))
        return {}

    def _version_of(self, thing: Any) -> Any:
        return self.versions[thing.pipeline_version_reference.pipeline_version_id]

    def _check_namespace(self, namespace: str | None) -> None:
        if self.multi_user != bool(namespace):
            raise Refusal(400, f"Invalid input error: namespace {namespace!r} in this mode")

    def _check_source(self, thing: Any) -> None:
        if (thing.pipeline_spec is None) == (thing.pipeline_version_reference is None):
            raise Refusal(400, "Invalid input error: exactly one pipeline source is needed")
        if thing.pipeline_version_reference and (
            thing.pipeline_version_reference.pipeline_version_id not in self.versions
            or self._version_of(thing).pipeline_id != thing.pipeline_version_reference.pipeline_id
        ):
            raise Refusal(404, "Failed to get the latest pipeline version: PipelineVersion not found")
        if thing.experiment_id not in self.experiments:
            raise Refusal(404, f"Experiment {thing.experiment_id} not found")

    def _check_parameters(self, thing: Any, spec: dict[str, Any]) -> None:
        known = spec.get("pipeline_spec", spec)["root"].get("inputDefinitions", {}).get("parameters", {})
        given = (thing.runtime_config and thing.runtime_config.parameters) or {}
        if unknown := given.keys() - known.keys():
            raise Refusal(400, f"invalid pipeline job inputs: parameters {sorted(unknown)} are not defined")


def _only(query: dict[str, str], *keys: str) -> dict[str, str]:
    return {key: query[key] for key in keys if key in query}
