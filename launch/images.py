"""Image names whose tags follow from content: the same code, the same tag, the same cache entries.

KFP looks cached results up by image string, so the tag is what makes a changed stage run again, and lets
an unchanged one be skipped. `images/build.py` builds the images from the very files that the tag is made of.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from components.shared.errors import InputError

if TYPE_CHECKING:
    from launch.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
STAGES = (
    "preflight",
    "data_preparation",
    "rl_exploration",
    "rollout_harvesting",
    "verification_filtering",
    "rft",
    "evaluation",
    "report",
    "publishing",
)
TRAINING_STAGES = ("rl_exploration", "rft", "evaluation")  # they train or sample; the others have no torch
POLICY_STAGES = ("preflight", "data_preparation")  # they read the base policy; the others take what the second makes
VARIANTS = ("cuda", "cpu")  # of the training stages: CUDA torch and vLLM, or torch for CPUs


def default_variant(registry: str, recipe: "Recipe | None" = None) -> str:
    """Images in a registry are for a cluster with GPUs, unless no pool of the recipe has any; those that stay here are
    for this machine's CPUs."""
    without_gpus = recipe is not None and not any(pool.accelerators for _, pool in recipe.pools)
    return "cpu" if without_gpus or not registry else "cuda"


def family(stage: str, variant: str) -> str:
    """The set of packages that a stage's image has; the requirements file is called by it."""
    return f"training-{variant}" if stage in TRAINING_STAGES else "cpu"


def packages_files(family: str) -> dict[str, Path]:
    """The files that a family's packages follow from, by their names in the build."""
    return {
        "Dockerfile": ROOT / "images" / "packages.Dockerfile",
        "requirements.txt": ROOT / "images" / "requirements" / f"{family}.txt",
    }


def stage_files(stage: str) -> dict[str, Path]:
    """The files that a stage's image adds to its family's packages, by their names in the build."""
    components = ROOT / "components"
    files = [components / "__init__.py", *(components / "shared").rglob("*"), *(components / stage).rglob("*")]
    code = {str(file.relative_to(ROOT)): file for file in sorted(files) if file.suffix == ".py"}
    policies = tiny_policies() if stage in POLICY_STAGES else {}
    return {"Dockerfile": ROOT / "images" / "stage.Dockerfile", **code, **policies}


def tiny_policies() -> dict[str, Path]:
    """The files of the tiny base policies, which come with the images, by the paths that they have there and here."""
    files = sorted((ROOT / "recipes" / "tiny").glob("*/*"))
    return {file.relative_to(ROOT).as_posix(): file for file in files if file.is_file() and file.name[0] != "."}


def in_images(path: str) -> bool:
    """Whether a path, as a recipe names a base policy, leads to the same policy in the images as it does here."""
    name = os.path.normpath(path)
    comes_along = name in {str(Path(file).parent) for file in tiny_policies()}
    return comes_along and (not Path(path).exists() or Path(path).resolve() == (ROOT / name).resolve())


def packages_image(family: str, registry: str = "") -> str:
    """The image of a family's packages: `[REGISTRY/]rloop-packages-FAMILY:TAG`."""
    return _name(f"packages-{family}", _digest(packages_files(family)), registry)


def image(stage: str, registry: str = "", variant: str = "") -> str:
    """The image of a stage: `[REGISTRY/]rloop-STAGE:TAG`, the tag from its code, the shared code and the packages.

    Args:
        stage: one of STAGES.
        registry: where the image is, such as `registry.example.com/me`; empty for one that was built here.
        variant: of the training stages, one of VARIANTS; empty: what fits the registry.
    """
    packages = packages_files(family(stage, variant or default_variant(registry)))
    digest = _digest({**{f"packages/{name}": file for name, file in packages.items()}, **stage_files(stage)})
    return _name(stage.replace("_", "-"), digest, registry)


def _digest(files: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _name(name: str, tag: str, registry: str) -> str:
    return f"{registry.rstrip('/')}/rloop-{name}:{tag}" if registry else f"rloop-{name}:{tag}"


def require_images(registry: str, variant: str = "") -> None:
    """Makes sure that a cluster can pull the image of every stage.

    Raises:
        InputError: an image is missing, or cannot be asked for.
    """
    if missing := missing_images(image(stage, registry, variant) for stage in STAGES):
        listed = "\n".join(f"  {name}: {why}" for name, why in missing.items())
        raise InputError(
            f"images that cannot be found:\n{listed}\n"
            f"Push them with `make push REGISTRY={registry} VARIANT={variant or default_variant(registry)}`, "
            f"or go on with --allow-missing-images"
        )


def missing_images(names: Iterable[str]) -> dict[str, str]:
    """The images that their registry does not have, each with what it says.

    Raises:
        InputError: there is no Docker to ask.
    """
    answers = {name: _registry_refuses(name) for name in names}
    return {name: refusal for name, refusal in answers.items() if refusal}


def is_here(name: str) -> bool:
    """Whether the Docker engine has the image."""
    return _docker("image", "inspect", name).returncode == 0


def is_in_registry(name: str) -> bool:
    """Whether the registry that the name begins with has the image."""
    return not _registry_refuses(name)


def _registry_refuses(name: str) -> str:
    registry, separator, _ = name.rpartition("/")
    if not separator:
        return "not built here"
    # Like `docker push`, which asks a registry on this machine without TLS.
    plain = ["--insecure"] if registry.split("/")[0].split(":")[0] in ("localhost", "127.0.0.1") else []
    asked = _docker("manifest", "inspect", *plain, name)
    return "" if asked.returncode == 0 else (asked.stderr.strip() or "not found").splitlines()[-1]


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise InputError("cannot look for images: there is no `docker` command; install Docker's client") from None
