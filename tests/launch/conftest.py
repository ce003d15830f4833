"""A small pipeline of the product's shape, the commands, and a KFP server to use them on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from kfp import compiler, dsl

from components.shared.errors import InputError
from launch import run_display, server
from launch.cluster_commands import cancel, retry, schedule, status, submit
from launch.recipe import Recipe
from tests.launch.kfp_server import SECRET, FakeKfp

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "laptop.yaml"


@dsl.component(install_kfp_package=False, base_image="registry.example.com/rloop:1")
def work(before: str) -> str:
    return before


@dsl.component(install_kfp_package=False, base_image="registry.example.com/rloop:1")
def rft(before: str) -> str:
    return before


@dsl.component(install_kfp_package=False, base_image="registry.example.com/rloop:1")
def evaluation_base(before: str) -> str:
    return before


@dsl.pipeline(name="iteration")
def iteration(before: str) -> str:
    first = work(before=before).set_display_name("RL exploration")
    return rft(before=first.output).set_display_name("RFT").output


@dsl.pipeline(name="rloop")
def small_rloop(refresh: str = "", steps: int = 1) -> None:
    prepared = work(before=refresh).set_display_name("Preflight")
    evaluation_base(before=prepared.output)
    policy = prepared.output
    for number in (1, 2):
        policy = iteration(before=policy).set_display_name(f"Iteration {number}").output


def compile_small(recipe: Recipe, output: Path, registry: str = "") -> None:
    """As pipeline.py's: what is in the recipe is in the file."""
    compiler.Compiler().compile(small_rloop, str(output), pipeline_parameters={"steps": recipe.rl.steps})


class Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"error: {error}", err=True)
        ctx.exit(2)


@click.group(cls=Group, context_settings={"obj": compile_small})
def main() -> None:
    pass


for command in (submit, schedule, retry, status, cancel):
    main.add_command(command)

Call = Callable[..., Result]


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with FakeKfp() as fake:
        yield fake


@pytest.fixture
def call(kfp: FakeKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    for name in ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT", "KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.setattr(run_display, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(server, "BACK_OFF_SECONDS", (0.01, 0.02))

    def invoke(name: str, *arguments: str, host: str | None = None) -> Result:
        recipe = ["--recipe", str(RECIPE)] if name in ("submit", "schedule") else []
        where = [] if host == "" else ["--host", host or kfp.host]
        result = CliRunner().invoke(main, [name, *recipe, *arguments, *where])
        assert "Traceback" not in result.output and SECRET not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke
