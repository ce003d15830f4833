"""What a recipe names on this machine: which of it a cluster's pods cannot see, and how it gets to where they can."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from components.data_preparation.base_policy import POLICY_FILES
from components.shared.data.sources import Source, is_file_source
from components.shared.data.table_files import local_files
from components.shared.errors import InputError
from components.shared.object_store import open_store
from components.shared.object_store.inputs import is_stored
from components.shared.policy.checks import check_policy
from components.shared.stage import files_digest
from launch.images import in_images
from launch.recipe import Recipe

_INPUTS = "rloop-inputs"  # beside where the recipe keeps progress


class Upload(NamedTuple):
    """A local policy or data file on its way to an object store; its URI holds the digest of its content."""

    key: str
    path: Path
    uri: str


def sources_of(recipe: Recipe) -> dict[str, Source]:
    """The sources of training problems and benchmarks, by the recipe key that names them."""
    train = {f"data.train.{number}": source for number, source in enumerate(recipe.data.train)}
    return train | {f"data.benchmarks.{name}": source for name, source in recipe.data.benchmarks.items()}


def require_visible(recipe: Recipe) -> None:
    """Makes sure that a cluster's pods can see whatever the recipe names.

    Raises:
        InputError: names each key that holds a path of this machine, and what to do.
    """
    inputs = [f"- {key}: {path}" for key, path in _local_inputs(recipe)]
    for key, source in sources_of(recipe).items():
        if source.uri.startswith("hf://") and Path(_repository(source.uri)).exists():
            inputs.append(f"- {key}: {source.uri} (a folder here; a pod would look for it on the hub)")
    places = [
        f"- store.{key}: {value}"
        for key, value in (("checkpoint_uri", recipe.store.checkpoint_uri), ("publish_uri", recipe.store.publish_uri))
        if value and not is_stored(value)
    ]
    said = []
    if inputs:
        said.append(
            "the recipe names what lies on this machine, where no pod of the cluster can see it:\n"
            + "\n".join(inputs)
            + "\nAdd --upload-to s3://BUCKET/PREFIX to `submit` or `schedule`, which puts it there and names it so; or "
            "put it where pods can read it yourself and name that: s3://BUCKET/..., hf://ORG/NAME"
        )
    if places:
        said.append(
            "the recipe keeps things in a folder, which is gone with the pod that wrote it:\n"
            + "\n".join(places)
            + "\nName a place in an object store, s3://BUCKET/PREFIX, or leave the key out"
        )
    if said:
        raise InputError("\n".join(said))


def upload_root(recipe: Recipe, upload_to: str | None) -> str:
    """Where local inputs go: where the user says, else into the bucket in which the recipe keeps progress.

    Raises:
        InputError: neither names a bucket.
    """
    root = upload_to
    if root is None:
        progress = urlsplit(recipe.store.checkpoint_uri)
        if not is_stored(recipe.store.checkpoint_uri):
            raise InputError(
                "--upload does not know where to: say so with --upload-to s3://BUCKET/PREFIX, or keep progress in a "
                f"bucket (store.checkpoint_uri), which then has the inputs too, under {_INPUTS}/"
            )
        root = f"{progress.scheme}://{progress.netloc}/{_INPUTS}"
    if not is_stored(root) or not urlsplit(root).netloc:
        raise InputError(f"--upload-to {root}: expected s3://BUCKET/PREFIX, where the cluster's pods can read it")
    return root.rstrip("/")


def plan_uploads(recipe: Recipe, root: str) -> list[Upload]:
    """What of a recipe has to be uploaded for pods to see it, and where to: below a root, by a digest of its content.

    Raises:
        InputError: a path leads nowhere, or the base policy is none.
    """
    uploads = []
    for key, name in _local_inputs(recipe):
        path = Path(name)
        if key == "base_policy":
            check_policy(path, name)
        else:
            path, *others = local_files(name, key)
            if others:
                raise InputError(
                    f"{key}: {name} is {1 + len(others)} files, and one can be uploaded; put them into one"
                )
        digest = files_digest(_policy_files(path) if key == "base_policy" else [path])[:16]
        uploads.append(Upload(key, path, f"{root}/{digest}/{path.resolve().name}"))
    return uploads


def with_uploads(recipe: Recipe, uploads: Iterable[Upload]) -> Recipe:
    """The recipe, with the URIs of uploads in place of the paths."""
    uris = {upload.key: upload.uri for upload in uploads}
    named = {
        key: source.model_copy(update={"uri": uris[key]}) if key in uris else source
        for key, source in sources_of(recipe).items()
    }
    data = recipe.data.model_copy(
        update={
            "train": [named[f"data.train.{number}"] for number in range(len(recipe.data.train))],
            "benchmarks": {name: named[f"data.benchmarks.{name}"] for name in recipe.data.benchmarks},
        }
    )
    return recipe.model_copy(update={"base_policy": uris.get("base_policy", recipe.base_policy), "data": data})


def send(upload: Upload) -> None:
    """Uploads a policy or a data file, unless it is there; what is there is there as a whole.

    Raises:
        InputError: the store cannot be reached or refuses.
    """
    root, digest, name = upload.uri.rsplit("/", 2)
    store = open_store(root)
    if upload.key != "base_policy":
        if not store.exists(f"{digest}/{name}"):
            store.upload_file(upload.path, f"{digest}/{name}")
        return
    with tempfile.TemporaryDirectory() as folder:  # of the files that data preparation takes, and no others
        for file in _policy_files(upload.path):
            (Path(folder) / file.name).symlink_to(file.resolve())
        store.upload_folder(folder, f"{digest}/{name}", title="MiB of the base policy sent")


def _local_inputs(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Keys and paths of the base policy and the sources that lie on this machine and in no image."""
    policy = recipe.base_policy
    if not policy.startswith("hf://") and not is_stored(policy) and not in_images(policy):
        yield "base_policy", policy
    for key, source in sources_of(recipe).items():
        if is_file_source(source.uri):
            yield key, source.uri


def _policy_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.name.endswith(POLICY_FILES))


def _repository(uri: str) -> str:
    return uri.removeprefix("hf://").partition("?")[0]
