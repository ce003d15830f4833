"""Command-line options that several commands share."""

from pathlib import Path

import click

from launch.images import VARIANTS

recipe_option = click.option(
    "--recipe", "recipe_path", required=True, type=click.Path(path_type=Path), help="YAML file of the recipe to run."
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a recipe key, such as rl.steps=20. Can be repeated.",
)
iterations_option = click.option(
    "--iterations", type=click.IntRange(min=1), help="Number of RLoop iterations; the recipe's if omitted."
)
vanilla_option = click.option(
    "--with-vanilla-rl",
    "vanilla",
    is_flag=True,
    help="Also run vanilla RL with the same number of steps, for comparison.",
)
variant_option = click.option(
    "--variant",
    type=click.Choice(VARIANTS),
    help="Variant of the training stages' images; if omitted, cuda with a registry and pools with accelerators, "
    "else cpu.",
)
registry_option = click.option(
    "--registry", default="", help="Registry of the stages' images, such as registry.example.com/me."
)
missing_images_option = click.option(
    "--allow-missing-images", is_flag=True, help="Skip the check that the registry has the images."
)
