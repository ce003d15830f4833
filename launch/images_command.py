"""The `images` command: the stages' images, and the files that determine an image's tag."""

import hashlib
from pathlib import Path

import click

from components.shared.errors import InputError, nearest
from components.shared.imports import stage_code
from launch.images import ROOT, STAGES, VARIANTS, default_variant, image, image_files


@click.command("images")
@click.option("--registry", default="", help="Registry of the images, such as registry.example.com/me.")
@click.option(
    "--variant",
    type=click.Choice(VARIANTS),
    help="Variant of the training stages' images; if omitted, cuda with a registry, else cpu.",
)
@click.option("--why", "stage", metavar="STAGE", help="List the files that determine this stage's tag.")
def images(registry: str, variant: str | None, stage: str | None) -> None:
    """List the stages' images, or the files behind a tag.

    A tag is derived from the packages and the code of its stage. When one of those files changes, the stage runs again
    and starts from scratch; no other file affects it.
    """
    variant = variant or default_variant(registry)
    if stage is None:
        for name in STAGES:
            click.echo(image(name, registry, variant))
        return
    stage = stage.replace("-", "_")
    if stage not in STAGES:
        raise InputError(f"--why {stage!r} is not a stage.{nearest(stage, STAGES)}")
    importers = stage_code(stage, ROOT)
    files = image_files(stage, variant)
    click.echo(f"{image(stage, registry, variant)} is determined by {len(files)} files:")
    width = max(len(_relative(file)) for file in files.values())
    for file in files.values():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        importer = importers.get(file, file)
        by = f"  imported by {_relative(importer)}" if importer != file else ""
        click.echo(f"  {digest}  {_relative(file):{width}}{by}".rstrip())


def _relative(file: Path) -> str:
    return str(file.relative_to(ROOT))
