"""Names of the stages' images, with tags derived from content: the same code has the same tag and cache entries.

KFP looks up cached results by image name, so the tag is what makes a changed stage run again and an unchanged one be
skipped. `images/build.py` builds the images from the very files that the tag is derived from.
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
POLICY_STAGES = ("preflight", "data_preparation")  # they read the base policy; the others use the second one's output
# The Docker client's message, without the address before it, when nothing answers like a registry.
_UNREACHABLE = re.compile(
    r"no such host|server misbehaving|Temporary failure in name resolution|connection refused|connection reset|"
    r"no route to host|network is unreachable|i/o timeout|TLS handshake timeout|Client\.Timeout|deadline exceeded|"
    r"server gave HTTP response to HTTPS client|x509: .*|\bEOF$"
)
VARIANTS = ("cuda", "cpu")  # of the training stages: CUDA torch and vLLM, or torch for CPUs


def default_variant(registry: str, recipe: "Recipe | None" = None) -> str:
    """Returns cuda for images in a registry, unless the recipe has no pool with accelerators; cpu for local images."""
    without_gpus = recipe is not None and not any(pool.accelerators for _, pool in recipe.pools)
    return "cpu" if without_gpus or not registry else "cuda"


def family(stage: str, variant: str) -> str:
    """Returns the name of the package set of a stage's image, which is that of its requirements file."""
    return f"training-{variant}" if stage in TRAINING_STAGES else "cpu"


def packages_files(family: str) -> dict[str, Path]:
    """Returns the files that determine a family's packages, by their names in the build."""
    return {
        "Dockerfile": ROOT / "images" / "packages.Dockerfile",
        "requirements.txt": ROOT / "images" / "requirements" / f"{family}.txt",
    }


def stage_files(stage: str) -> dict[str, Path]:
    """Returns the files that a stage's image adds to its packages, by their names in the build: the code it imports."""
    code = {str(file.relative_to(ROOT)): file for file in stage_code(stage, ROOT)}
    policies = tiny_policies() if stage in POLICY_STAGES else {}
    return {"Dockerfile": ROOT / "images" / "stage.Dockerfile", **code, **policies}


def tiny_policies() -> dict[str, Path]:
    """Returns the files of the tiny base policies in the images, by path, which is the same in the repository."""
    files = sorted((ROOT / "recipes" / "tiny").glob("*/*"))
    return {file.relative_to(ROOT).as_posix(): file for file in files if file.is_file() and file.name[0] != "."}


def in_images(path: str) -> bool:
    """Returns whether the path of a base policy in a recipe points to the same policy in the images as it does here."""
    name = os.path.normpath(path)
    included = name in {str(Path(file).parent) for file in tiny_policies()}
    return included and (not Path(path).exists() or Path(path).resolve() == (ROOT / name).resolve())


def packages_image(family: str, registry: str = "") -> str:
    """Returns the image of a family's packages: `[REGISTRY/]rloop-packages-FAMILY:TAG`."""
    return _name(f"packages-{family}", _digest(packages_files(family)), registry)


def image(stage: str, registry: str = "", variant: str = "") -> str:
    """Returns the image of a stage: `[REGISTRY/]rloop-STAGE:TAG`, with the tag derived from `image_files`.

    Args:
        stage: One of STAGES.
        registry: Registry of the image, such as `registry.example.com/me`; empty for a local image.
        variant: Variant of the training stages' images, one of VARIANTS; empty: the registry's default.
    """
    digest = _digest(image_files(stage, variant or default_variant(registry)))
    return _name(stage.replace("_", "-"), digest, registry)


def image_files(stage: str, variant: str) -> dict[str, Path]:
    """Returns the files that determine a stage's image: those of its packages, and the code it imports.

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
    """Checks that the registry has the image of every stage.

    Raises:
        InputError: An image is missing or cannot be looked up.
    """
    missing = missing_images(image(stage, registry, variant) for stage in STAGES)
    if not missing:
        return
    by_reason: dict[str, list[str]] = {}
    for name, why in missing.items():
        by_reason.setdefault(why.replace(name, "it"), []).append(name)
    listed = "\n".join(f"  {', '.join(names)}: {why}" for why, names in by_reason.items())
    raise InputError(
        f"images not found:\n{listed}\n"
        f"Push them with `make push REGISTRY={registry} VARIANT={variant or default_variant(registry)}`, or skip this "
        f"check with --allow-missing-images"
    )


def missing_images(names: Iterable[str]) -> dict[str, str]:
    """Returns the images that their registry does not have, each with the registry's message.

    Raises:
        InputError: There is no Docker client, or the registry cannot be reached.
    """
    missing = {}
    for name in names:
        if refusal := _registry_refuses(name):
            if unreachable := _UNREACHABLE.search(refusal):
                raise InputError(
                    f"the registry {name.split('/')[0]} cannot be reached: {unreachable[0]}. Check its name and the "
                    f"network, or skip this check with --allow-missing-images"
                )
            missing[name] = refusal
    return missing


def is_here(name: str) -> bool:
    """Returns whether the local Docker engine has the image."""
    return _docker("image", "inspect", name).returncode == 0


def is_in_registry(name: str) -> bool:
    """Returns whether the registry in the image's name has the image."""
    return not _registry_refuses(name)


def _registry_refuses(name: str) -> str:
    registry, separator, _ = name.rpartition("/")
    if not separator:
        return "not built here"
    # Like `docker push`, which uses no TLS for a registry on this machine.
    plain = ["--insecure"] if registry.split("/")[0].split(":")[0] in ("localhost", "127.0.0.1") else []
    asked = _docker("manifest", "inspect", *plain, name)
    return "" if asked.returncode == 0 else (asked.stderr.strip() or "not found").splitlines()[-1]


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise InputError("cannot look up images: no `docker` command found; install the Docker client") from None
