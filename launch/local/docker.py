"""Runs the stages of a local run as containers, with kfp.local's DockerRunner and fixes for its gaps.

Containers see the run's artifacts and, read-only, the files that the recipe names, at the same paths as on the host.
They run as the owner of the run's folder, so that the files they write belong to that user.
"""

import codecs
import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kfp import local

from components.shared.data.sources import is_file_source
from components.shared.data.table_files import local_files
from components.shared.errors import InputError
from components.shared.stage import ERROR_MARK
from launch.compiled import read_compiled
from launch.recipe import Recipe

RUN_LABEL = "rloop.run"  # label of a run's containers; its value is the run's folder
# Environment variables that a stage may need: how to reach the hub and S3, and how many threads to use.
_PASSED_ON = (
    *("HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "OMP_NUM_THREADS"),
    *("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"),
    "AWS_CA_BUNDLE",
)


@contextlib.contextmanager
def docker_runner(
    recipe: Recipe, compiled: Path, output_dir: Path, continued: Iterable[Path] = ()
) -> Iterator[local.DockerRunner]:
    """Yields a DockerRunner whose containers end with the run.

    Args:
        recipe: names the files that the containers see.
        compiled: the compiled pipeline, which names the images.
        output_dir: folder of the run, which no other run uses.
        continued: artifacts of the run that this one continues, which the containers see too.

    Raises:
        InputError: no Docker engine can be reached, or an image has not been built.
    """
    try:
        import docker
        from kfp.local import docker_task_handler
    except ImportError:
        raise InputError("--runner docker needs a Python package: pip install docker") from None
    output_dir = output_dir.resolve()
    try:
        client = docker.from_env()
        rootless = "name=rootless" in client.info().get("SecurityOptions", [])
    except docker.errors.DockerException as error:
        raise InputError(f"cannot reach a Docker engine (set DOCKER_HOST if it is elsewhere): {error}") from None
    with contextlib.closing(client):
        _check_images(client, compiled)
        for left in client.containers.list(all=True, filters={"label": f"{RUN_LABEL}={output_dir}"}):
            left.remove(force=True)  # left by a run that was killed
        owner = output_dir.stat()
        (output_dir / "artifacts").mkdir(exist_ok=True)
        if os.getuid() == 0:
            os.chown(output_dir / "artifacts", owner.st_uid, owner.st_gid)
        runner = local.DockerRunner(
            # In a rootless engine, root is the user that runs the engine.
            user="0:0" if rootless else f"{owner.st_uid}:{owner.st_gid}",
            working_dir=str(Path.cwd()),  # relative paths in the recipe start here
            mounts=[
                docker.types.Mount(str(inside), str(outside), type="bind", read_only=True)
                for inside, outside in (_named_files(recipe) | {path: path for path in continued}).items()
            ],
            environment={name: os.environ[name] for name in _passed_on() if name in os.environ},
            network_mode="host",  # servers on this machine, such as an object store, have their usual addresses
            shm_size="1g",
            labels={RUN_LABEL: str(output_dir)},
        )
        kfp_run = docker_task_handler.run_docker_container
        # KFP's own function lets containers remove themselves: one that fails fast is gone before its status is read,
        # and counts as a success. Nor does it end containers at Ctrl-C.
        docker_task_handler.run_docker_container = _run_container
        try:
            yield runner
        finally:
            docker_task_handler.run_docker_container = kfp_run


def _passed_on() -> Iterable[str]:
    return [*_PASSED_ON, *(name.lower() for name in _PASSED_ON if name.endswith("_PROXY"))]


def _check_images(client: Any, compiled: Path) -> None:
    specification = read_compiled(compiled)[0]
    executors = specification["deploymentSpec"]["executors"].values()
    images = {executor["container"]["image"] for executor in executors if "container" in executor}
    here = {tag for image in client.images.list() for tag in image.tags}
    if missing := sorted(images - here):
        raise InputError(f"images not built yet: {', '.join(missing)}\nBuild them with: python images/build.py")


def _named_files(recipe: Recipe) -> dict[Path, Path]:
    """Returns the local files and folders that a recipe names: their real paths, by path inside the containers."""
    sources = [*recipe.data.train, *recipe.data.benchmarks.values()]
    found: dict[Path, Path] = {}
    patterns = [source.uri for source in sources if is_file_source(source.uri) and set(source.uri) & set("*?[")]
    matched = [str(file) for uri in patterns if not Path(uri).exists() for file in local_files(uri, "data")]
    bundle = [os.environ["AWS_CA_BUNDLE"]] if "AWS_CA_BUNDLE" in os.environ else []
    for uri in [recipe.base_policy, *(source.uri for source in sources), *matched, *bundle]:
        path = Path(os.path.normpath(Path.cwd() / uri))  # not resolve(): the recipe's own path must exist inside
        if path.exists():
            found[path] = path.resolve()
            # Model folders in the hub's cache are links to files outside the folder.
            for link in path.rglob("*") if path.is_dir() else ():
                if link.is_symlink():
                    found[Path(os.path.normpath(link.parent / link.readlink()))] = link.resolve()
    return found


def _run_container(client: Any, image: str, command: list[str], volumes: dict[str, Any], **arguments: Any) -> int:
    """Runs a container to its end and prints its output; returns its exit status."""
    import docker

    print(f"container of {image}")
    try:
        container = client.containers.create(image, command, volumes=volumes, **arguments)
        try:
            container.start()
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a chunk may end inside a character
            for chunk in container.logs(stream=True, follow=True):
                print(decoder.decode(chunk), end="")
            status = int(container.wait()["StatusCode"])
            container.reload()
            if container.attrs["State"]["OOMKilled"]:
                print(f"\n{ERROR_MARK} the container ran out of memory")
            return status
        finally:
            container.remove(force=True, v=True)  # also ends it if the run was interrupted
    except (docker.errors.DockerException, OSError) as error:  # OSError: the engine is gone
        print(f"\n{ERROR_MARK} Docker: {error}")
        return 1
