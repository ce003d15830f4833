"""Image names whose tags follow from content: the same code, the same tag, the same cache entries.

KFP looks cached results up by image string, so the tag is what makes a changed stage run again, and lets
an unchanged one be skipped. `images/build.py` builds the images from the very files that the tag is made of.
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from components.shared.errors import InputError
from components.shared.imports import VERSION_FILE, stage_code

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
# What Docker's client says, after addresses, where nothing answers as a registry does.
_UNREACHABLE = re.compile(
    r"no such host|server misbehaving|Temporary failure in name resolution|connection refused|connection reset|"
    r"no route to host|network is unreachable|i/o timeout|TLS handshake timeout|Client\.Timeout|deadline exceeded|"
    r"server gave HTTP response to HTTPS client|x509: .*|\bEOF$"
)
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
    """The files that a stage's image adds to its packages, by their names in the build: the code that it imports."""
    code = {str(file.relative_to(ROOT)): file for file in stage_code(stage, ROOT)}
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
    """The image of a stage: `[REGISTRY/]rloop-STAGE:TAG`, the tag from the files in `image_files`.

    Args:
        stage: one of STAGES.
        registry: where the image is, such as `registry.example.com/me`; empty for one that was built here.
        variant: of the training stages, one of VARIANTS; empty: what fits the registry.
    """
    digest = _digest(image_files(stage, variant or default_variant(registry)))
    return _name(stage.replace("_", "-"), digest, registry)


def image_files(stage: str, variant: str) -> dict[str, Path]:
    """The files that a stage's image follows from: its packages', and the code that it imports.

    The version number is in the image but not among them: a new release changes the tags of changed stages only.
    """
    packages = {f"packages/{name}": file for name, file in packages_files(family(stage, variant)).items()}
    code = {name: file for name, file in stage_files(stage).items() if name != VERSION_FILE}
    return {**packages, **code}


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
    missing = missing_images(image(stage, registry, variant) for stage in STAGES)
    if not missing:
        return
    by_reason: dict[str, list[str]] = {}
    for name, why in missing.items():
        by_reason.setdefault(why.replace(name, "it"), []).append(name)
    listed = "\n".join(f"  {', '.join(names)}: {why}" for why, names in by_reason.items())
    raise InputError(
        f"images that cannot be found:\n{listed}\n"
        f"Push them with `make push REGISTRY={registry} VARIANT={variant or default_variant(registry)}`, or go on with "
        f"--allow-missing-images"
    )


def missing_images(names: Iterable[str]) -> dict[str, str]:
    """The images that their registry does not have, each with what it says.

    Raises:
        InputError: there is no Docker to ask, or the registry cannot be reached.
    """
    missing = {}
    for name in names:
        if refusal := _registry_refuses(name):
            if unreachable := _UNREACHABLE.search(refusal):
                raise InputError(
                    f"the registry {name.split('/')[0]} cannot be reached: {unreachable[0]}. Check its name and the "
                    f"network, or go on with --allow-missing-images"
                )
            missing[name] = refusal
    return missing


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
