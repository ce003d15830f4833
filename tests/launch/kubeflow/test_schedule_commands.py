"""`schedule list`, `pause`, `resume` and `delete`; `create` is in test_cluster.py."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import kfp_server_api as api
import pytest
from click.testing import Result

from launch.kubeflow import cluster
from tests.launch.stand_in.server import FakeKfp

Call = Callable[..., Result]


def schedule_called(kfp: FakeKfp, name: str) -> Any:
    return next(s for s in kfp.schedules.values() if s.display_name == name)


def tick(kfp: FakeKfp, name: str, state: str, *history: str) -> None:
    """Starts a run of a schedule, which ends in a state."""
    made = schedule_called(kfp, name)
    kfp.clock += timedelta(days=1)
    number = str(len(kfp.runs))
    kfp.runs[number] = api.V2beta1Run(
        run_id=number,
        display_name=f"{name} {number}",
        recurring_run_id=made.recurring_run_id,
        created_at=kfp.clock,
        state=state,
        state_history=[api.V2beta1RuntimeStatus(state=each) for each in history],
    )


def listed(call: Call, *arguments: str) -> dict[str, str]:
    """Returns the lines of `schedule list` by schedule name."""
    said = call("schedule", "list", *arguments)
    assert said.exit_code == 0, said.output
    return {line.split("  ")[0]: line for line in said.output.splitlines()}


def test_nothing_to_list(kfp: FakeKfp, call: Call) -> None:
    assert "rloop has no schedules on" in call("schedule", "list").output


def test_schedules_are_listed_with_when_they_tick_and_how_the_last_run_ended(kfp: FakeKfp, call: Call) -> None:
    for name in ("nightly", "new", "weekly", "stopped"):
        call("schedule", "--cron", "30 2 * * 1" if name == "weekly" else "30 2 * * *", "--name", name)
    tick(kfp, "nightly", "FAILED")
    tick(kfp, "nightly", "SUCCEEDED")
    tick(kfp, "weekly", "FAILED")
    tick(kfp, "stopped", "FAILED", "RUNNING", "CANCELING", "FAILED")
    schedule_called(kfp, "stopped").status = "DISABLED"
    lines = listed(call)
    assert list(lines) == ["name", "new", "nightly", "stopped", "weekly"]
    assert "at 02:30 every day, UTC" in lines["nightly"] and " 02:30 UTC" in lines["nightly"]
    assert "succeeded, Fri 2026-11-27 03:00 UTC" in lines["nightly"] and lines["nightly"].endswith("  on")
    assert "none yet" in lines["new"]
    assert (
        "at 02:30 every Monday" in lines["weekly"] and "  Mon " in lines["weekly"] and "  failed, " in lines["weekly"]
    )
    assert lines["stopped"].endswith("  paused") and "  -  " in lines["stopped"] and "cancelled, " in lines["stopped"]
    there = listed(call, "--cluster-timezone", "Asia/Tokyo")["nightly"]
    assert "at 02:30 every day, Asia/Tokyo" in there and " 02:30 JST" in there and "2026-11-27 12:00 JST" in there


def test_schedules_that_were_made_in_the_ui(kfp: FakeKfp, call: Call) -> None:
    for name in ("five", "every", "seconds", "over"):
        call("schedule", "--cron", "@daily", "--name", name)
    triggers = {
        "five": api.V2beta1CronSchedule(cron="0 30 2 * *"),  # seconds first, the weekday left out
        "every": api.V2beta1CronSchedule(cron="@every 2h"),
        "over": api.V2beta1CronSchedule(cron="0 0 0 * * *", end_time=kfp.clock.replace(year=2020)),
    }
    for name, trigger in triggers.items():
        schedule_called(kfp, name).trigger.cron_schedule = trigger
    schedule_called(kfp, "seconds").trigger = api.V2beta1Trigger(
        periodic_schedule=api.V2beta1PeriodicSchedule(interval_second="3600")
    )
    lines = listed(call)
    assert "at 02:30 every day" in lines["five"] and " 02:30 UTC" in lines["five"]
    assert "  @every 2h, UTC  " in lines["every"] and "  -  " in lines["every"]
    assert "  every 3600 s, UTC  " in lines["seconds"] and "  -  " in lines["seconds"]
    assert "at 00:00 every day" in lines["over"] and "  -  " in lines["over"]


RECORDED = {  # by Kubeflow Pipelines 2.17.0
    "recurring_run_id": "f11387c1-b591-49a4-9fa1-49dcaa9a7836",
    "display_name": "every2",
    "description": "every 2 minutes, UTC",
    "runtime_config": {"parameters": {"refresh": "[[ScheduledTime]]"}},
    "service_account": "rloop",
    "max_concurrency": "1",
    "trigger": {"cron_schedule": {"cron": "0 */2 * * * *"}},
    "mode": "ENABLE",
    "created_at": "2026-11-28T16:26:05Z",
    "updated_at": "2026-11-28T16:26:05Z",
    "status": "ENABLED",
    "no_catchup": True,
    "namespace": "kubeflow",
    "experiment_id": "ec610bc0-960f-4601-b269-ab5c5a8128eb",
}


def test_a_schedule_as_the_real_server_tells_it(kfp: FakeKfp, call: Call) -> None:
    call("submit")
    (version,) = kfp.versions.values()
    recorded = api.ApiClient()._ApiClient__deserialize(RECORDED, "V2beta1RecurringRun")
    recorded.pipeline_version_reference = api.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id="of an earlier release"
    )
    kfp.schedules[recorded.recurring_run_id] = recorded
    assert "  every 2 minutes, UTC  " in listed(call)["every2"]
    said = call("schedule", "--cron", "*/2 * * * *", "--name", "every2", "--service-account", "rloop").output
    assert "differs from this one: different pipeline version, no " in said and ", no base_policy, " in said
    assert "more parameters. Pass --replace to replace it" in said


def test_more_than_a_page_of_schedules_and_those_of_other_pipelines(
    kfp: FakeKfp, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"s{number}" for number in range(5)]
    for name in names:
        call("schedule", "--cron", "@daily", "--name", name)
    schedule_called(kfp, "s2").pipeline_version_reference.pipeline_id = "of someone else"
    monkeypatch.setattr(cluster, "_PAGE_SIZE", 2)
    assert list(listed(call)) == ["name", "s0", "s1", "s3", "s4"]
    assert call("schedule", "delete", "s2").exit_code == 2 and len(kfp.schedules) == 5


def test_pausing_resuming_and_deleting(kfp: FakeKfp, call: Call) -> None:
    call("schedule", "--cron", "@daily", "--name", "nightly")
    (made,) = kfp.schedules.values()
    before = len(kfp.writes())
    for command in ("pause", "resume", "delete"):
        assert f"would {command} the schedule 'nightly'" in call("schedule", command, "nightly", "--dry-run").output
    assert "is already on" in call("schedule", "resume", "nightly").output
    assert len(kfp.writes()) == before
    assert "paused the schedule 'nightly'" in call("schedule", "pause", "nightly").output
    assert made.status == "DISABLED"
    assert "is already paused" in call("schedule", "pause", made.recurring_run_id).output
    assert "resumed the schedule 'nightly'" in call("schedule", "resume", made.recurring_run_id).output
    assert made.status == "ENABLED" and len(kfp.writes()) == before + 2
    assert "deleted the schedule 'nightly'" in call("schedule", "delete", "nightly").output
    assert not kfp.schedules and kfp.deletions == ["ORPHAN"]


def test_a_schedule_is_named_by_an_unambiguous_name_or_id(kfp: FakeKfp, call: Call) -> None:
    nothing = call("schedule", "pause", "nightly")
    assert nothing.exit_code == 2 and "rloop has no schedules yet" in nothing.output
    call("schedule", "--cron", "@daily", "--name", "nightly")
    assert "Did you mean 'nightly'?" in call("schedule", "pause", "nigthly").output
    call("schedule", "--cron", "@daily", "--name", "other")
    schedule_called(kfp, "other").display_name = "nightly"
    ambiguous = call("schedule", "delete", "nightly")
    assert ambiguous.exit_code == 2 and all(each in ambiguous.output for each in kfp.schedules)
    again = call("schedule", "--cron", "@daily", "--name", "nightly")
    assert again.exit_code == 2 and "`schedule delete ID`" in again.output


def test_create_need_not_be_said_and_may_be(kfp: FakeKfp, call: Call) -> None:
    recipe = ["--recipe", "recipes/laptop.yaml", "--cron", "@daily"]
    assert call("schedule", "create", *recipe).exit_code == 0
    assert "nothing to do" in call("schedule", "--cron", "@daily").output
    assert "Did you mean 'list'?" in call("schedule", "lst", recipe=None).output
