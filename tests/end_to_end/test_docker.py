"""The images, and the laptop loop in containers of them, in a reduced size. RLOOP_BASE_IMAGE names a base image."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.shared.policy.checks import check_policy
from launch import images
from launch.local.cache import MANIFEST
from tests.end_to_end.test_laptop import REDUCED, stages_that_ran, start

pytestmark = pytest.mark.docker
ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "images" / "requirements"
USER = 10001  # the images' own
CPU_FAMILY_MB = 700


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def build(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "images/build.py", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def megabytes(image: str) -> float:
    return int(docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


@pytest.fixture(scope="module")
def base_image() -> str:
    """The image that the Dockerfiles start from here."""
    default = (ROOT / "images" / "packages.Dockerfile").read_text().split("ARG BASE_IMAGE=")[1].split()[0]
    return os.environ.get("RLOOP_BASE_IMAGE", default)


@pytest.fixture(scope="module")
def built(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The images of all stages, with torch for CPUs."""
    wheels = tmp_path_factory.mktemp("wheels")
    pin = next(line for line in (REQUIREMENTS / "training-cpu.txt").read_text().split() if line.startswith("torch=="))
    # A build does not see the folders and caches of this machine's pip.
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), pin]
    subprocess.run(download, check=True, capture_output=True)
    build("--base-image", base_image, "--wheels", str(wheels), "--", "--network=host")
    return {stage: images.image(stage) for stage in images.STAGES}


def test_the_images_are_small(built: dict[str, str], base_image: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = megabytes(base_image)
    over_base = {stage: megabytes(image) - base for stage, image in built.items()}
    with capsys.disabled():
        print(f"\nbase image {base_image}: {base:.0f} MB; over it:")
        for stage, size in over_base.items():
            print(f"  {stage:<24} {size:6.0f} MB")
    for stage, image in built.items():
        packages = images.packages_image(images.family(stage, "cpu"))
        # The stages of a family share its layers; two bring the tiny policies along.
        assert megabytes(image) - megabytes(packages) < (6 if "recipes" in str(images.stage_files(stage)) else 1)
        if stage not in images.TRAINING_STAGES:
            assert over_base[stage] < CPU_FAMILY_MB


def test_a_second_build_has_nothing_to_do(built: dict[str, str]) -> None:
    assert build().splitlines() == [f"exists  {image}" for image in built.values()]


@pytest.mark.parametrize("stage", images.STAGES)
@pytest.mark.parametrize("user", ["", "4242:4242"])
def test_an_image_holds_its_stage_alone_and_runs_as_any_user(built: dict[str, str], stage: str, user: str) -> None:
    look = (
        "id -u; ls /app/components; touch ~/written && echo writable;"
        "for tool in gcc cc pip pip3; do command -v $tool; done;"
        "ls -d /root/.cache /home/rloop/.cache 2>/dev/null; python3 -c 'import getpass; print(getpass.getuser())'"
    )
    said = docker("run", "--rm", *(["--user", user] if user else []), built[stage], "sh", "-c", look)
    uid = user.split(":")[0] or str(USER)
    assert said.split() == [uid, "__init__.py", *sorted(["shared", stage]), "writable", "rloop"]
    inspected = json.loads(docker("image", "inspect", built[stage]))[0]["Config"]
    assert inspected["User"] == f"{USER}:{USER}"
    assert inspected["Labels"]["org.opencontainers.image.title"] == f"rloop {stage}"
    assert inspected["Labels"]["org.opencontainers.image.version"] == built[stage].split(":")[1]


@pytest.mark.parametrize("stage", images.STAGES)
def test_every_module_of_a_stage_imports_in_its_image(built: dict[str, str], stage: str) -> None:
    files = [Path(name) for name in images.stage_files(stage) if name.endswith(".py")]
    modules = [".".join(file.with_suffix("").parts) for file in files if file.name != "component.py"]
    docker("run", "--rm", "--env", "_KFP_RUNTIME=true", built[stage], "python3", "-c", f"import {', '.join(modules)}")


def command(output: Path, *more: str) -> list[str]:
    sets = [part for change in REDUCED for part in ("--set", change)]
    recipe = str(ROOT / "recipes" / "laptop.yaml")
    run = [sys.executable, "pipeline.py", "run", "--runner", "docker", "--recipe", recipe, "--output-dir", str(output)]
    return [*run, *sets, *more]


def run(output: Path, *more: str, status: int = 0) -> str:
    done = subprocess.run(command(output, *more), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def containers_of(output: Path) -> list[str]:
    return docker("ps", "--all", "--quiet", "--filter", f"label=rloop.run={output}").split()


@pytest.fixture(scope="module")
def finished(built: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("docker")
    if os.getuid() == 0:  # whose folder it is decides who the containers are
        os.chown(output, USER, USER)
        policy = ROOT / "recipes" / "tiny" / "countdown" / "model.safetensors"
        policy.chmod(0o644)  # as in a fresh clone
    return output, run(output)


def test_the_loop_runs_in_containers_that_are_not_root(finished: tuple[Path, str]) -> None:
    output, text = finished
    ran = stages_that_ran(text)
    assert len(ran) == int(text.split("]", 1)[0].split("/")[-1]) and ran[-1] == "iteration 2: report"
    summary = json.loads((output / "summary.json").read_text())
    assert [p["name"] for p in summary["policies"]] == ["base", "explored-1", "rloop-1", "explored-2", "rloop-2"]
    check_policy(output / "policy", "the run's policy")
    made = list((output / "artifacts").glob("rloop-*/*/*"))
    launchers = ("stage.log", MANIFEST)
    owners = {file.stat().st_uid for file in made if file.name not in launchers}
    assert len(made) > 40 and owners == {output.stat().st_uid} and owners != {0}
    assert "container of rloop-rft:" in (output / "logs" / "iteration-1.rft.log").read_text()
    assert containers_of(output) == []


def test_a_second_run_is_all_cached(finished: tuple[Path, str]) -> None:
    output, text = finished
    again = run(output)
    assert stages_that_ran(again) == []
    assert text.splitlines()[-10:] == again.splitlines()[-10:]


@pytest.mark.parametrize(("stop", "epochs"), [("kill", 3), ("interrupt", 4)])
def test_a_stopped_stage_ends_the_run_and_the_next_goes_on(
    built: dict[str, str], finished: tuple[Path, str], stop: str, epochs: int
) -> None:
    output, _ = finished
    changed = ("--iterations", "1", "--set", f"rft.epochs={epochs}")
    process = start(command(output, *changed))
    try:
        running: list[str] = []
        deadline = time.monotonic() + 300
        while not running and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
            running = docker("ps", "--quiet", "--filter", f"ancestor={built['rft']}").split()
        assert running
        if stop == "kill":  # as a node does that goes away
            docker("kill", *running)
        else:
            process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in text
    if stop == "kill":
        assert process.returncode == 1 and "iteration 1: RFT failed" in text
    else:
        assert process.returncode == 130 and "interrupted. Finished stages are kept" in text
    assert containers_of(output) == []
    ran = stages_that_ran(run(output, *changed))
    assert ran == ["iteration 1: RFT", "iteration 1: evaluation of rloop", "iteration 1: report"]


def test_a_stage_that_exits_non_zero_fails_the_run(built: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"  # which the containers see, by its own path
    data.write_text('{"problem": "What is 1 + 1?", "anwser": "2"}\n')
    text = run(tmp_path / "run", "--set", f"data.train={data}", status=1)
    assert "is known to hold the answer" in text and "answer_column" in text and "FAILED" in text
    assert not (tmp_path / "run" / "summary.json").exists()


def test_images_that_are_not_built_are_named(built: dict[str, str], tmp_path: Path) -> None:
    docker("tag", built["report"], "rloop-spare:1")
    docker("rmi", "--no-prune", built["report"])
    try:
        done = subprocess.run(command(tmp_path / "run"), cwd=ROOT, capture_output=True, text=True)
    finally:
        docker("tag", "rloop-spare:1", built["report"])
    assert done.returncode == 2 and built["report"] in done.stderr and "images/build.py" in done.stderr


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """An empty registry on this machine."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"localhost:{free.getsockname()[1]}"
    store = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    settings = {"version": 0.1, "storage": store, "http": {"addr": address}}
    (tmp_path / "registry.yml").write_text(json.dumps(settings))
    with (tmp_path / "registry.log").open("w") as log:
        server = subprocess.Popen([program, "serve", str(tmp_path / "registry.yml")], stdout=log, stderr=log)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(address.split(":")[1]))) == 0:
                    break
            time.sleep(0.1)
        yield f"{address}/team"
    finally:
        server.terminate()
        server.wait(10)


def test_push_and_compile_with_a_registry(registry: str, tmp_path: Path) -> None:
    output = tmp_path / "rloop.yaml"
    recipe = ["--recipe", "recipes/laptop.yaml", "--output", str(output), "--registry", registry, "--variant", "cpu"]
    publish = ["--set", "store.publish_uri=s3://bucket/published"]  # so that every stage is in it
    compile_it = [sys.executable, "pipeline.py", "compile", *recipe, *publish]
    done = subprocess.run(compile_it, cwd=ROOT, capture_output=True, text=True)
    names = [images.image(stage, registry, "cpu") for stage in images.STAGES]
    assert done.returncode == 2 and all(name in done.stderr for name in names) and not output.exists()
    subprocess.run([*compile_it, "--allow-missing-images"], cwd=ROOT, check=True)
    # Images that hold nothing stand in for those of 1 GB: they are here, so they are pushed as they are.
    (tmp_path / "nothing").mkdir()
    archive = subprocess.run(["tar", "-C", str(tmp_path / "nothing"), "-c", "."], capture_output=True, check=True)
    families = {images.family(stage, "cpu") for stage in images.STAGES}
    for name in [*names, *(images.packages_image(family, registry) for family in families)]:
        subprocess.run(["docker", "import", "-", name], input=archive.stdout, check=True, capture_output=True)
    said = build("--registry", registry, "--variant", "cpu", "--push").splitlines()
    assert [line for line in said if line.startswith("push    ") and "packages" not in line] == [
        f"push    {name}" for name in names
    ]
    again = build("--registry", registry, "--variant", "cpu", "--push").splitlines()
    assert again == [f"exists  {name}" for name in names]
    subprocess.run(compile_it, cwd=ROOT, check=True)
    assert all(name in output.read_text() for name in names)


def test_the_requirements_of_every_family_still_resolve() -> None:
    """The GPU family's too, which is not built: its packages are looked up, and none is installed."""
    sys.path.insert(0, str(ROOT / "images"))
    import lock

    for family in lock.FAMILIES:
        before = (REQUIREMENTS / f"{family}.txt").read_text()
        assert lock.lock(family, before) == before, "run: python images/lock.py"
