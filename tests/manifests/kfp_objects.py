"""kustomize, and objects of Kubeflow Pipelines' own installation (2.17.0), which some of our components patch."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

KFP = Path(__file__).resolve().parent / "kfp-2.17.0"


def configmap() -> dict[str, Any]:
    """Returns the workflow controller's ConfigMap."""
    return dict(yaml.safe_load((KFP / "workflow-controller-configmap.yaml").read_text()))


@functools.cache
def kustomize() -> tuple[str, ...]:
    """Returns the build command, which is also searched for next to this Python, where CI may have installed it."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if kubectl := shutil.which("kubectl", path=places):
        return (kubectl, "kustomize")
    if binary := shutil.which("kustomize", path=places):
        return (binary, "build")
    pytest.skip("neither kubectl nor kustomize is installed")


@functools.cache
def built(folder: Path) -> str:
    """Returns the output of kustomize for a folder."""
    done = subprocess.run([*kustomize(), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
