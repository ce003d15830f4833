"""Local paths in a recipe: detecting those that a cluster's pods cannot read, and uploading them to an object store."""

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

_INPUTS = "rloop-inputs"  # prefix in the bucket of store.checkpoint_uri


class Upload(NamedTuple):
    """A local policy or data file to upload; its target URI contains a digest of its content."""

    key: str
    path: Path
    uri: str


def sources_of(recipe: Recipe) -> dict[str, Source]:
    """Returns the sources of training problems and benchmarks by recipe key."""
    train = {f"data.train.{number}": source for number, source in enumerate(recipe.data.train)}
    return train | {f"data.benchmarks.{name}": source for name, source in recipe.data.benchmarks.items()}


def require_visible(recipe: Recipe) -> None:
    """Checks that a cluster's pods can read everything that the recipe refers to.

    Raises:
        InputError: some keys hold local paths; the message lists them and states what to do.
    """
    inputs = [f"- {key}: {path}" for key, path in _local_inputs(recipe)]
    for key, source in sources_of(recipe).items():
        if source.uri.startswith("hf://") and Path(_repository(source.uri)).exists():
            inputs.append(f"- {key}: {source.uri} (a local folder; a pod would look for it on the hub)")
    places = [
        f"- store.{key}: {value}"
        for key, value in (("checkpoint_uri", recipe.store.checkpoint_uri), ("publish_uri", recipe.store.publish_uri))
        if value and not is_stored(value)
    ]
    problems = []
    if inputs:
        problems.append(
            "the recipe refers to files on this machine, which the cluster's pods cannot read:\n"
            + "\n".join(inputs)
            + "\nAdd --upload-to s3://BUCKET/PREFIX to `submit` or `schedule` to upload them, or upload them yourself "
            "and refer to them as s3://BUCKET/... or hf://ORG/NAME"
        )
    if places:
        problems.append(
            "the recipe stores data in a local folder, which is lost with the pod that wrote it:\n"
            + "\n".join(places)
            + "\nUse an object store, s3://BUCKET/PREFIX, or omit the key"
        )
    if problems:
        raise InputError("\n".join(problems))


def upload_root(recipe: Recipe, upload_to: str | None) -> str:
    """Returns the target of uploads: `upload_to` if given, else a prefix in the bucket of store.checkpoint_uri.

    Raises:
        InputError: neither is in a bucket.
    """
    root = upload_to
    if root is None:
        progress = urlsplit(recipe.store.checkpoint_uri)
        if not is_stored(recipe.store.checkpoint_uri):
            raise InputError(
                "--upload needs a target: pass --upload-to s3://BUCKET/PREFIX, or set store.checkpoint_uri to a "
                f"bucket, to which inputs are then uploaded too, under {_INPUTS}/"
            )
        root = f"{progress.scheme}://{progress.netloc}/{_INPUTS}"
    if not is_stored(root) or not urlsplit(root).netloc:
        raise InputError(f"--upload-to {root}: expected s3://BUCKET/PREFIX that the cluster's pods can read")
    return root.rstrip("/")


def plan_uploads(recipe: Recipe, root: str) -> list[Upload]:
    """Returns the files of a recipe that pods cannot read, each with a target URI under `root` by content digest.

    Raises:
        InputError: a path does not exist, or the base policy is not a policy.
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
                    f"{key}: {name} is {1 + len(others)} files, but only one can be uploaded; merge them into one"
                )
        digest = files_digest(_policy_files(path) if key == "base_policy" else [path])[:16]
        uploads.append(Upload(key, path, f"{root}/{digest}/{path.resolve().name}"))
    return uploads


def with_uploads(recipe: Recipe, uploads: Iterable[Upload]) -> Recipe:
    """Returns the recipe with local paths replaced by the URIs of their uploads."""
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


def upload_input(upload: Upload) -> None:
    """Uploads a policy or a data file unless the store has it already; what is present there is complete.

    Raises:
        InputError: the store cannot be reached or denies access.
    """
    root, digest, name = upload.uri.rsplit("/", 2)
    store = open_store(root)
    if upload.key != "base_policy":
        if not store.exists(f"{digest}/{name}"):
            store.upload_file(upload.path, f"{digest}/{name}")
        return
    with tempfile.TemporaryDirectory() as folder:  # only the files that data preparation uses
        for file in _policy_files(upload.path):
            (Path(folder) / file.name).symlink_to(file.resolve())
        store.upload_folder(folder, f"{digest}/{name}", title="MiB of the base policy sent")


def _local_inputs(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yields keys and paths of the base policy and the sources that are local and not part of the images."""
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
