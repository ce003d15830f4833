"""The cluster under test, from the environment, and the table of results."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launch.kubeflow.server import Connection, Server
from tests.cluster.data import SOURCE, put_problems
from tests.cluster.product import Product, Said, small_recipe

SUITE = "test_acceptance.py"


@dataclass(frozen=True)
class Target:
    """The cluster under test; `make test-cluster` sets it."""

    host: str
    registry: str
    namespace: str
    service_account: str
    kubectl: str
    variant: str
    data: str  # s3://BUCKET/FOLDER/NAME.jsonl, writable by the tests
    s3_endpoint: str  # as seen by pods
    s3_secret: str  # in the pods' namespace

    @classmethod
    def from_environment(cls) -> "Target":
        """Reads the environment; skips the test without a host and a registry."""
        values = {name: os.environ.get(f"RLOOP_TEST_{name.upper()}", "") for name in cls.__dataclass_fields__}
        if not values["host"] or not values["registry"]:
            pytest.skip("no cluster: make test-cluster HOST=... REGISTRY=...")
        return cls(**values)

    def connection(self) -> list[str]:
        """Returns the options of every command."""
        return ["--host", self.host, *(["--namespace", self.namespace] if self.namespace else [])]

    def where(self) -> Connection:
        """Returns the connection for the tests' own requests, with credentials from the commands' variables."""
        return Connection(
            host=self.host,
            namespace=self.namespace or None,
            existing_token=os.environ.get("KF_PIPELINES_TOKEN"),
            cookies=os.environ.get("KF_PIPELINES_COOKIES"),
        )

    def server(self) -> Server:
        """Returns the Kubeflow Pipelines server."""
        return Server(self.where())

    def submission(self) -> list[str]:
        """Returns the options of `submit` and `schedule`."""
        options = {
            "--registry": self.registry,
            "--service-account": self.service_account,
            "--variant": self.variant,
            "--experiment": "rloop-acceptance",
        }
        return [part for option, value in options.items() if value for part in (option, value)]


@pytest.fixture(scope="session")
def target() -> Target:
    return Target.from_environment()


@pytest.fixture(scope="session")
def product(target: Target) -> Iterator[Product]:
    """The product on the cluster; runs that are still active at the end are canceled."""
    product = Product(target.connection(), target.submission())
    yield product
    for run in product.started:
        said: Said = product.run(["cancel", run, *product.connection])
        if said.code == 0:
            print(f"canceled the run {run}, which the tests had left running")


@pytest.fixture(scope="session")
def recipe(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose stages take seconds, on data in the object store if there is one."""
    folder = tmp_path_factory.mktemp("recipe")
    # A new seed each time: results of an earlier session in the cache would prove nothing.
    changes: dict[str, Any] = {"seed": round(time.time()) % 1_000_000}
    if target.data:
        put_problems(target.data, 1, folder)
        changes["data"] = {"train": [{"uri": target.data, **SOURCE}]}
        changes["store"] = {"endpoint": target.s3_endpoint or None, "secret": target.s3_secret or None}
    return small_recipe(folder, changes)


def table(reports: list[Any]) -> list[str]:
    """Returns one line per test: name, duration, outcome and notes."""
    ours = [report for report in reports if SUITE in report.nodeid]
    rows = []
    for test in dict.fromkeys(report.nodeid for report in ours):
        phases = [report for report in ours if report.nodeid == test]
        outcomes = {report.outcome for report in phases}
        verdict = "FAILED" if "failed" in outcomes else "not tried" if "skipped" in outcomes else "ok"
        skipped = [r.longrepr[2].removeprefix("Skipped: ") for r in phases if isinstance(r.longrepr, tuple)]
        notes = dict.fromkeys([str(value) for report in phases for _, value in report.user_properties] + skipped)
        minutes, seconds = divmod(round(sum(report.duration for report in phases)), 60)
        name = test.rpartition("::test_")[2].replace("_", " ")
        rows.append([name, f"{minutes} min {seconds:2d} s", verdict, "; ".join(notes)])
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the table."""
    # Successful setup and teardown phases are in the list without a name.
    kinds = ("passed", "failed", "error", "skipped", "")
    reports = [r for kind in kinds for r in terminalreporter.stats.get(kind, []) if hasattr(r, "nodeid")]
    lines = table(sorted(reports, key=lambda report: getattr(report, "start", 0.0)))
    if lines:
        terminalreporter.section("the cluster")
        for line in lines:
            terminalreporter.write_line(line)
