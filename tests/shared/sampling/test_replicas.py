"""Replicas in processes of their own: what one does not survive ends the sampling with its message."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from components.shared.errors import InputError
from components.shared.policy import Policy
from components.shared.sampling.base import Batch, Decoding, batches_of
from components.shared.sampling.engines import SamplerSettings
from components.shared.sampling.placement import Placement
from components.shared.sampling.replicas import Replicas

pytestmark = pytest.mark.slow
PROMPTS = ["Use 3 7 2 to make 13.", "Use 11 12 13 to make 36.", "Use 1 2 3 4 to make 10."]
TWO = Placement(replicas=2)


def batches(policy: Path, n: int) -> list[Batch]:
    return batches_of(Policy(policy), PROMPTS, n, 8, Decoding(1, 30))


def settings(policy: Path) -> SamplerSettings:
    return SamplerSettings(policy, "transformers", batch_size=8)


def test_a_replica_that_dies_ends_the_sampling_and_the_others(tiny_policy: Path) -> None:
    with Replicas() as replicas:
        sampled = replicas.sample(TWO, {settings(tiny_policy): batches(tiny_policy, 800)})
        next(sampled)
        processes: list[subprocess.Popen[bytes]] = [each.process for each in replicas._started]
        os.kill(processes[1].pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="replica 2 of 2 ended with exit status -9: it was killed"):
            list(sampled)
        assert all(process.poll() is not None for process in processes)


def test_processes_are_kept_for_another_policy_and_an_error_for_the_user_stays_one(
    tiny_policy: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(tiny_policy, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], torch.nan)
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with Replicas() as replicas:
        work = {settings(tiny_policy): batches(tiny_policy, 8)}
        ours = {batch.name: completions for batch, completions in replicas.sample(Placement(), work)}
        theirs = {batch.name: completions for batch, completions in replicas.sample(TWO, work)}
        assert ours == theirs and len(ours) == 3
        processes = [each.process for each in replicas._started]
        with pytest.raises(InputError, match="1 of its tensors contain NaN or infinity"):
            list(replicas.sample(TWO, {settings(broken): batches(broken, 8)}))
        assert len(processes) == 2 and all(process.poll() is not None for process in processes)
