"""Builds and pushes the stages' images. Tags are derived from content, so images that exist are left alone.

    python images/build.py                                  # for this machine: run --runner docker
    python images/build.py --registry registry.example.com/me --push     # for a cluster with GPUs
    python images/build.py --registry registry.example.com/me --recipe recipes/laptop.yaml --push   # for its pools

The first needs PyTorch's CPU builds, which are in PyTorch's own package index: name it in PIP_EXTRA_INDEX_URL, or give
a folder with the wheel by --wheels.

Each family's packages are a separate image: stages share its layers, and a code change rebuilds and pushes only
kilobytes.
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

PIP_SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")  # environment variables that are passed on to builds


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--registry", default="", help="Registry of the images, such as registry.example.com/me (default: local images)."
)
@click.option(
    "--variant",
    type=click.Choice(VARIANTS),
    help="Variant of the training images (default: cuda with --registry, unless --recipe has no GPUs; else cpu).",
)
@click.option(
    "--recipe", type=click.Path(path_type=Path), help="Recipe whose pools' accelerators determine the variant."
)
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Build only this stage.")
@click.option("--base-image", help="Debian image with Python 3.11 to use instead of the Dockerfile's.")
@click.option(
    "--wheels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of additional wheels for pip to install from.",
)
@click.option("--push", is_flag=True, help="Push images that the registry does not have.")
@click.option("--rebuild", is_flag=True, help="Rebuild existing images too, for example after pulling a base image.")
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
    """Build the stages' images. DOCKER_OPTIONS, after `--`, are passed to `docker build`."""
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
        click.echo(f"error: `{' '.join(error.cmd[:2])}` failed; see its output above", err=True)
        sys.exit(1)


def variant_for(registry: str, recipe: Path | None) -> str:
    """Returns the variant for a recipe's pools; without a recipe, for a cluster with GPUs or for this machine."""
    if recipe is None:
        return default_variant(registry)
    from launch.recipe import load_recipe  # importing it takes a second, which most builds do not need

    return default_variant(registry, load_recipe(recipe))


class Builds:
    """Builds images with the `docker` command.

    Args:
        push: push the images.
        rebuild: rebuild images that exist.
        docker_options: extra options of `docker build`.
    """

    def __init__(self, push: bool, rebuild: bool, docker_options: tuple[str, ...]) -> None:
        self._push, self._rebuild, self._docker_options = push, rebuild, docker_options
        self._made: set[str] = set()

    def has(self, name: str) -> bool:
        """Returns whether an image needs no build: it was just built, or it is where it belongs."""
        if name in self._made or self._rebuild:
            return name in self._made
        return is_in_registry(name) or (is_here(name) and not self._push)

    def make(self, name: str, files: dict[str, Path], arguments: dict[str, str], wheels: Path | None = None) -> None:
        """Builds an image from exactly these files, by path in the image's build context, and pushes it."""
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
    """Copies what a build needs to a folder, readable by the image's user regardless of this user's umask."""
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
    (folder / "wheels").mkdir()
    (folder / "recipes").mkdir(exist_ok=True)  # the Dockerfile copies it even if it is empty
    for wheel in sorted(wheels.glob("*.whl")) if wheels else []:
        shutil.copyfile(wheel, folder / "wheels" / wheel.name)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def run(*arguments: str) -> None:
    """Runs a docker command and shows its output."""
    try:
        subprocess.run(["docker", *arguments], check=True)
    except FileNotFoundError:
        raise InputError("the `docker` command was not found; install Docker") from None


if __name__ == "__main__":
    main()
