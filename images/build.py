"""Builds the images of the stages, and pushes them: what exists is left alone, since a tag follows from content.

    python images/build.py                                  # for this machine: run --runner docker
    python images/build.py --registry registry.example.com/me --push     # for a cluster with GPUs
    python images/build.py --registry registry.example.com/me --recipe recipes/laptop.yaml --push   # for its pools

PyTorch's CPU builds, for the first, are in its own package index: name it in PIP_EXTRA_INDEX_URL, or give a folder
that holds the wheel with --wheels.

A family's packages are an image of their own, so that the stages share its layers and a change of code builds
and moves kilobytes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from components.shared.errors import InputError
from launch.images import (
    STAGES,
    VARIANTS,
    default_variant,
    family,
    image,
    is_here,
    is_in_registry,
    packages_files,
    packages_image,
    stage_files,
)

PIP_SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")  # of this environment, which hold in builds too


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--registry", default="", help="Where the images go, such as registry.example.com/me; empty: they stay here."
)
@click.option("--variant", type=click.Choice(VARIANTS), help="Of the training stages; cuda for a registry, else cpu.")
@click.option("--recipe", type=click.Path(path_type=Path), help="The variant follows from its pools' accelerators.")
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Build this stage only.")
@click.option("--base-image", help="Debian with Python 3.11, in place of the Dockerfile's.")
@click.option(
    "--wheels", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of wheels that pip takes."
)
@click.option("--push", is_flag=True, help="Push what the registry does not have.")
@click.option("--rebuild", is_flag=True, help="Build also what exists, as after a pull of a newer base image.")
@click.argument("docker_options", nargs=-1, type=click.UNPROCESSED)
def main(
    registry: str,
    variant: str | None,
    recipe: Path | None,
    stages: tuple[str, ...],
    base_image: str | None,
    wheels: Path | None,
    push: bool,
    rebuild: bool,
    docker_options: tuple[str, ...],
) -> None:
    """Build the images of the stages. DOCKER_OPTIONS, after `--`, go to `docker build`."""
    if push and not registry:
        raise click.UsageError("--push needs --registry")
    builds = Builds(push, rebuild, docker_options)
    try:
        variant = variant or variant_for(registry, recipe)
        for stage in stages or STAGES:
            packages = packages_image(family(stage, variant), registry)
            name = image(stage, registry, variant)
            if builds.has(name):
                click.echo(f"exists  {name}")
                continue
            if not builds.has(packages):
                arguments = {name: os.environ[name] for name in PIP_SETTINGS if name in os.environ}
                arguments |= {"BASE_IMAGE": base_image} if base_image else {}
                builds.make(packages, packages_files(family(stage, variant)), arguments, wheels)
            arguments = {"PACKAGES_IMAGE": packages, "STAGE": stage, "TAG": name.rpartition(":")[2]}
            builds.make(name, stage_files(stage), arguments)
    except InputError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except subprocess.CalledProcessError as error:
        click.echo(f"error: `{' '.join(error.cmd[:2])}` failed; its last lines are above", err=True)
        sys.exit(1)


def variant_for(registry: str, recipe: Path | None) -> str:
    """The variant for a recipe's pools; for a cluster with GPUs or this machine where none is named."""
    if recipe is None:
        return default_variant(registry)
    from launch.recipe import load_recipe  # it takes a second that most builds need not wait for

    return default_variant(registry, load_recipe(recipe))


class Builds:
    """Makes images with the `docker` command."""

    def __init__(self, push: bool, rebuild: bool, docker_options: tuple[str, ...]) -> None:
        self._push, self._rebuild, self._docker_options = push, rebuild, docker_options
        self._made: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether an image need not be made: it was just now, or it is where it belongs."""
        if name in self._made or self._rebuild:
            return name in self._made
        return is_in_registry(name) or (is_here(name) and not self._push)

    def make(self, name: str, files: dict[str, Path], arguments: dict[str, str], wheels: Path | None = None) -> None:
        """Builds an image from exactly these files, and pushes it."""
        if self._rebuild or not is_here(name):
            click.echo(f"build   {name}")
            with tempfile.TemporaryDirectory(prefix="rloop-image-") as folder:
                fill_context(Path(folder), files, wheels)
                options = [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
                run("build", "--tag", name, *options, *self._docker_options, folder)
        if self._push:
            click.echo(f"push    {name}")
            run("push", name)
        self._made.add(name)


def fill_context(folder: Path, files: dict[str, Path], wheels: Path | None) -> None:
    """Copies what a build needs to a folder, readable by the image's user whatever this user's umask is."""
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
    (folder / "wheels").mkdir()
    (folder / "recipes").mkdir(exist_ok=True)  # the Dockerfile copies it whatever is in it
    for wheel in sorted(wheels.glob("*.whl")) if wheels else []:
        shutil.copyfile(wheel, folder / "wheels" / wheel.name)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def run(*arguments: str) -> None:
    """Runs a docker command and shows its output."""
    try:
        subprocess.run(["docker", *arguments], check=True)
    except FileNotFoundError:
        raise InputError("there is no `docker` command; install Docker") from None


if __name__ == "__main__":
    main()
