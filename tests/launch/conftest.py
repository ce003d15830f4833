"""A small pipeline of the product's shape, the commands, and a KFP server to use them on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from kfp import compiler, dsl

from components.shared.errors import InputError
from launch.compiled import read_compiled
from launch.kubeflow import server
from launch.kubeflow.commands import cancel, retry, status
from launch.kubeflow.schedule import schedule
from launch.kubeflow.status import display as run_display
from launch.kubeflow.submit import submit
from launch.parameters import run_parameters
from launch.recipe import Recipe
from tests.launch.stand_in.server import SECRET, FakeKfp

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
def small_rloop(base_policy: str, steps: int = 1) -> None:
    prepared = work(before=base_policy).set_display_name("Preflight")
    evaluation_base(before=prepared.output)
    policy = prepared.output
    for number in (1, 2):
        policy = iteration(before=policy).set_display_name(f"Iteration {number}").output


def compile_small(recipe: Recipe, output: Path, registry: str, variant: str, before: int = 0) -> None:
    """As pipeline.py's: it has the parameters that a run gets, with the recipe's values as defaults."""
    compiler.Compiler().compile(small_rloop, str(output))
    specification, *platform = read_compiled(output)
    specification["root"]["inputDefinitions"]["parameters"] |= {
        name: {"parameterType": _KINDS[type(value)], "defaultValue": value, "isOptional": True}
        for name, value in run_parameters(recipe).items()
    }
    specification["pipelineInfo"]["description"] = f"{recipe.iterations} iterations, {variant} images of {registry}"
    output.write_text(yaml.safe_dump_all([specification, *platform]))


_KINDS = {int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", str: "STRING", list: "LIST", dict: "STRUCT", bool: "BOOLEAN"}


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
    monkeypatch.setattr(server, "BACKOFF_SECONDS", (0.01, 0.02))

    def invoke(name: str, *arguments: str, host: str | None = None, recipe: Path | None = RECIPE) -> Result:
        """Invokes a command; `submit` and `schedule` of a recipe, unless a subcommand is named."""
        starts = name == "submit" or (name == "schedule" and not (arguments and arguments[0] in schedule.commands))
        named = ["--recipe", str(recipe)] if starts and recipe else []
        where = [] if host == "" else ["--host", host or kfp.host]
        result = CliRunner().invoke(main, [name, *named, *arguments, *where])
        assert "Traceback" not in result.output and SECRET not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke
