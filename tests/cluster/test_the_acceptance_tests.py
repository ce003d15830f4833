"""The acceptance tests on a simulated cluster: they pass on a healthy one, and on a faulty one the right test fails."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import test_acceptance as suite
from tests.cluster.conftest import Target
from tests.cluster.data import SOURCE, put_problems
from tests.cluster.kubectl import Kubectl
from tests.cluster.played import Played
from tests.cluster.product import Product, small_recipe


class Stage:
    """A simulated cluster, and the fixtures of the acceptance tests."""

    def __init__(self, fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch, data: bool = True) -> None:
        self.played, self.folder, self.notes = Played(fault), folder, list[str]()
        self.product = Product([], [], self.played, poll_seconds=0.0)
        (folder / "store").mkdir(parents=True)
        uri = f"{folder}/store/problems.jsonl"
        put_problems(uri, 1, folder)
        self.target = Target("http://h", "r", "", "", "kubectl", "", uri if data else "", "", "")
        changes = {"data": {"train": [{"uri": uri, **SOURCE}]}} if data else {}
        self.recipe = small_recipe(folder, changes)
        monkeypatch.setattr(suite, "ticks", self.ticks)
        monkeypatch.setattr(suite, "LOOK_SECONDS", 0.0)
        monkeypatch.setattr(Target, "server", lambda _: None)
        monkeypatch.setattr(Kubectl, "training_pods", lambda _, run: self.training(run))
        monkeypatch.setattr(Kubectl, "kill", lambda _, pod: self.played.kill(pod))

    def note(self, _: str, value: object) -> None:
        self.notes.append(str(value))

    def ticks(self, _: Any) -> list[tuple[str, str]]:
        for name in self.played.schedules:
            self.played.tick(name)
        return [(run, name) for name, each in self.played.schedules.items() for run in each["runs"]]

    def training(self, run: str) -> list[str]:
        status = self.product.status(run)
        return [run] if any(s["stage"].endswith("rft") and s["state"] == "running" for s in status["stages"]) else []

    def first(self) -> str:
        return str(suite.first_run.__wrapped__(self.product, self.recipe))  # the function behind the fixture

    def pending(self) -> None:
        suite.test_a_stage_that_waits_for_a_node_says_so_and_a_cancelled_run_blames_nobody(
            self.product, self.recipe, self.note
        )

    def cancelled(self) -> None:
        suite.test_a_cancelled_run_goes_on_in_place(self.product, self.recipe, self.note)

    def repeated(self) -> None:
        suite.test_a_stage_is_repeated_with_what_follows_and_nothing_else(self.product, self.first())

    def cached(self) -> None:
        self.first()
        suite.test_the_same_again_comes_from_the_cache(self.product, self.recipe, "")

    def told(self) -> None:
        suite.test_a_first_run_succeeds_and_every_stage_is_told(self.product, self.first(), self.note)

    def scheduled(self) -> None:
        self.first()
        arguments = (self.product, self.target, self.recipe, "", "nightly", self.folder, self.note)
        suite.test_a_schedule_trains_on_new_data_alone(*arguments)

    def vanilla(self) -> None:
        suite.test_three_iterations_with_vanilla_rl_outlive_a_killed_pod(
            self.product, self.recipe, self.target, self.note
        )


EVERY: tuple[Callable[[Stage], None], ...] = (
    Stage.told,
    Stage.cached,
    Stage.pending,
    Stage.cancelled,
    Stage.repeated,
    Stage.scheduled,
    Stage.vanilla,
)


@pytest.fixture
def stage_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stage]]:
    yield lambda fault="", **options: Stage(fault, tmp_path, monkeypatch, **options)


@pytest.mark.parametrize("test", EVERY)
def test_on_a_good_cluster_all_is_well(test: Callable[[Stage], None], stage_with: Callable[..., Stage]) -> None:
    test(stage_with())


def test_without_a_store_the_schedule_has_quiet_ticks_alone(stage_with: Callable[..., Stage]) -> None:
    stage = stage_with(data=False)
    stage.scheduled()
    assert stage.notes == ["two quiet ticks; data that changes: DATA=s3://BUCKET/FOLDER/NAME.jsonl"]


@pytest.mark.parametrize(
    ("fault", "test", "said"),
    [
        ("cached-retry", Stage.repeated, "rft came from the cache"),
        ("blames", Stage.cancelled, "failed"),
        ("restarts", Stage.cancelled, "what had succeeded is kept"),
        ("silent-pending", Stage.pending, "waited for a stage that waits"),
        ("eager-tick", Stage.scheduled, "ticks without news"),
        ("blind-tick", Stage.scheduled, "the data changed, and what ran was"),
        ("lost-pod", Stage.vanilla, "is FAILED"),
    ],
)
def test_each_fault_is_seen(
    fault: str, test: Callable[[Stage], None], said: str, stage_with: Callable[..., Stage]
) -> None:
    with pytest.raises(AssertionError, match=said):
        test(stage_with(fault))
