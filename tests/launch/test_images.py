import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from components.shared.errors import InputError
from components.shared.imports import VERSION_FILE, stage_code
from components.shared.progress import checkpoints
from launch import images
from launch.images_command import images as images_command
from launch.recipe import load_recipe


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("components", "images", "recipes/tiny"):
        shutil.copytree(images.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(images, "ROOT", tmp_path)
    return tmp_path


def tags(variant: str = "") -> dict[str, str]:
    return {stage: images.image(stage, variant=variant) for stage in images.STAGES}


def changed(before: dict[str, str], variant: str = "") -> set[str]:
    return {stage for stage, name in tags(variant).items() if name != before[stage]}


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("# more\n")


def test_a_stages_code_changes_its_own_image_alone(tree: Path) -> None:
    before = tags()
    assert tags() == before
    append(tree / "components" / "evaluation" / "evaluate.py")
    assert changed(before) == {"evaluation"}


def test_each_file_changes_the_tags_and_fingerprints_of_those_who_import_it(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_ROOT", tree)

    def fingerprints() -> dict[str, str]:
        return {stage: checkpoints.fingerprint(stage, {}, []) for stage in images.STAGES}

    importers = {stage: set(stage_code(stage, tree)) for stage in images.STAGES}
    files = [file for file in sorted((tree / "components").rglob("*.py")) if file != tree / VERSION_FILE]
    assert len(files) > 60
    concerned = {file: {stage for stage in images.STAGES if file in importers[stage]} for file in files}
    shared = {file.name: stages for file, stages in concerned.items() if "shared" in file.parts}
    assert shared["stage.py"] == set(images.STAGES)
    assert shared["pass_at_k.py"] == {"evaluation", "report"}
    assert shared["page.py"] == set(images.STAGES) - {"publishing"}
    before, kept = tags(), fingerprints()
    for file, stages in concerned.items():
        text = file.read_bytes()
        append(file)
        assert changed(before) == stages, file
        assert {stage for stage, name in fingerprints().items() if name != kept[stage]} == stages, file
        file.write_bytes(text)
    assert tags() == before and fingerprints() == kept


def test_a_new_version_changes_no_tag_or_fingerprint_though_it_is_in_the_images(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_ROOT", tree)

    def names() -> list[str]:
        return [*tags().values(), *(checkpoints.fingerprint(stage, {}, []) for stage in images.STAGES)]

    before = names()
    assert {stage for stage in images.STAGES if VERSION_FILE in images.stage_files(stage)} == set(images.STAGES) - {
        "publishing"
    }
    (tree / VERSION_FILE).write_text('VERSION = "99.0"\n')
    assert names() == before


@pytest.mark.parametrize(
    "path", ["components/shared/stage.py", "images/packages.Dockerfile", "images/stage.Dockerfile"]
)
def test_what_all_stages_have_changes_every_image(tree: Path, path: str) -> None:
    before = tags()
    append(tree / path)
    assert changed(before) == set(images.STAGES)


@pytest.mark.parametrize("variant", images.VARIANTS)
def test_a_familys_packages_change_its_images_alone(tree: Path, variant: str) -> None:
    before = tags(variant)
    packages = images.packages_image("cpu"), images.packages_image(f"training-{variant}")
    append(tree / "images" / "requirements" / f"training-{variant}.txt")
    assert changed(before, variant) == set(images.TRAINING_STAGES)
    assert images.packages_image("cpu") == packages[0] and images.packages_image(f"training-{variant}") != packages[1]
    before = tags(variant)
    append(tree / "images" / "requirements" / "cpu.txt")
    assert changed(before, variant) == set(images.STAGES) - set(images.TRAINING_STAGES)


def test_what_tools_leave_changes_nothing(tree: Path) -> None:
    before = tags()
    (tree / "components" / "rft" / "__pycache__").mkdir()
    (tree / "components" / "rft" / "__pycache__" / "refine.cpython-311.pyc").write_bytes(b"x")
    (tree / "constraints.txt").write_text("pytest==9.9\n")
    assert changed(before) == set()


def test_the_tiny_policies_are_part_of_the_stages_that_read_them(tree: Path) -> None:
    before = tags()
    append(tree / "recipes" / "tiny" / "countdown" / "config.json")
    assert changed(before) == {"preflight", "data_preparation"}
    before = tags()
    append(tree / "recipes" / "tiny" / "make_base_policy.py")
    append(tree / "recipes" / "tiny" / "countdown" / ".swp")
    assert changed(before) == set()
    assert "recipes/tiny/countdown/model.safetensors" in images.stage_files("preflight")


def test_no_other_stage_is_given_a_base_policys_place() -> None:
    """Whatever else takes a policy takes the artifact that data preparation makes."""
    for stage in set(images.STAGES) - set(images.POLICY_STAGES):
        component = (images.ROOT / "components" / stage / "component.py").read_text()
        assert "base_policy" not in component and "policy_uri" not in component


@pytest.mark.parametrize(
    ("registry", "overrides", "variant"),
    [
        ("", ["pools.training.accelerators=1"], "cpu"),
        ("registry.example.com/me", [], "cpu"),
        ("registry.example.com/me", ["pools.training.accelerators=1"], "cuda"),
        ("registry.example.com/me", ["pools.inference.accelerators=1"], "cuda"),
    ],
)
def test_the_variant_follows_from_the_pools(registry: str, overrides: list[str], variant: str) -> None:
    recipe = load_recipe(images.ROOT / "recipes" / "laptop.yaml", overrides)
    assert images.default_variant(registry, recipe) == variant
    assert images.default_variant("registry.example.com/me") == "cuda" and images.default_variant("") == "cpu"


def test_variants_differ_in_the_training_stages() -> None:
    cpu, cuda = tags("cpu"), tags("cuda")
    assert {stage for stage in images.STAGES if cpu[stage] != cuda[stage]} == set(images.TRAINING_STAGES)
    assert tags() == cpu  # what stays here is for this machine
    assert images.image("rft", "registry.example.com/me").endswith(cuda["rft"])


def test_names_and_registry() -> None:
    assert images.image("rl_exploration", "registry.example.com/me/").startswith(
        "registry.example.com/me/rloop-rl-exploration:"
    )
    assert len(images.image("rft").split(":")[1]) == 12


def fake_docker(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_missing_images_are_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_docker(monkeypatch, tmp_path, 'case "$*" in *rloop-rft*) echo "no such manifest: $3" >&2; exit 1;; esac')
    with pytest.raises(InputError) as refused:
        images.require_images("registry.example.com/me")
    assert images.image("rft", "registry.example.com/me") in str(refused.value) and "no such manifest" in str(
        refused.value
    )
    assert "rloop-report" not in str(refused.value) and "--allow-missing-images" in str(refused.value)


def test_one_reason_for_all_is_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_docker(monkeypatch, tmp_path, 'echo "unauthorized: authentication required" >&2; exit 1')
    with pytest.raises(InputError) as refused:
        images.require_images("registry.example.com/me")
    assert str(refused.value).count("unauthorized") == 1 and str(refused.value).count("/me/rloop-") == 9


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("dial tcp: lookup registry.example.com on 10.96.0.10:53: no such host", "no such host"),
        ("dial tcp 192.0.2.7:443: connect: connection refused", "connection refused"),
        ("net/http: request canceled (Client.Timeout exceeded while awaiting headers)", "Client.Timeout"),
    ],
)
def test_a_registry_that_cannot_be_reached_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, reason: str
) -> None:
    fake_docker(
        monkeypatch,
        tmp_path,
        f'echo x >> {tmp_path}/asked; echo "Get https://registry.example.com/v2/: {said}" >&2; exit 1',
    )
    with pytest.raises(InputError) as refused:
        images.require_images("registry.example.com/me")
    message = str(refused.value)
    assert message.startswith(f"the registry registry.example.com cannot be reached: {reason}.")
    assert "10.96" not in message and "192.0" not in message and "\n" not in message
    assert (tmp_path / "asked").read_text() == "x\n", "and asked once"


def test_the_command_lists_images_and_the_files_behind_a_tag() -> None:
    listed = CliRunner().invoke(images_command, []).output.split()
    assert listed == [images.image(stage) for stage in images.STAGES]
    why = CliRunner().invoke(images_command, ["--why", "rft", "--registry", "registry.example.com/me"]).output
    first, *files = why.splitlines()
    assert first.startswith(images.image("rft", "registry.example.com/me"))
    assert {line.split()[1] for line in files} == {
        str(file.relative_to(images.ROOT)) for file in images.image_files("rft", "cuda").values()
    }
    assert any(
        line.split()[1:] == ["components/shared/reporting/page.py", "imported", "by", "components/rft/refine.py"]
        for line in files
    )
    refused = CliRunner().invoke(images_command, ["--why", "rff"])
    assert isinstance(refused.exception, InputError) and "rft" in str(refused.exception)


def test_all_images_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_docker(monkeypatch, tmp_path, "exit 0")
    images.require_images("registry.example.com/me")


def test_without_docker_there_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="no `docker` command found"):
        images.require_images("registry.example.com/me")


@pytest.mark.parametrize(("registry", "plain"), [("localhost:5000", True), ("registry.example.com/me", False)])
def test_a_registry_on_this_machine_is_asked_without_tls(
    monkeypatch: pytest.MonkeyPatch, registry: str, plain: bool
) -> None:
    asked: list[tuple[str, ...]] = []

    def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
        asked.append(arguments)
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(images, "_docker", docker)
    assert images.is_in_registry(images.image("rft", registry))
    assert ("--insecure" in asked[0]) == plain
