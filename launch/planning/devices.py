"""What a plan knows about accelerators: data-sheet figures, and the share of them that is reached in practice.

Peaks are NVIDIA's: dense bfloat16 without sparsity, memory as advertised. The shares are ours: a third of peak FLOPS is
what large training runs reach (PaLM, arXiv 2204.02311, reports 46 % for the best and 20 to 35 % for others), and 60 %
of the bandwidth is what kernels reach that read a growing cache. docs/plan.md explains what they mean for the hours.
"""

import os
from dataclasses import dataclass, replace

import psutil

from components.preflight.memory import GIB
from components.shared.errors import InputError, nearest
from launch.pools import Pool


@dataclass(frozen=True)
class Device:
    """One accelerator or, without any, the cores of a machine."""

    name: str
    memory_gib: float
    flops: float  # peak FLOPS, in the precision used for training
    bandwidth: float  # peak bytes per second
    gpu: bool = True
    half: bool = True  # whether it computes in bfloat16
    flops_share: float = 0.35
    bandwidth_share: float = 0.6
    start_seconds: float = 120.0  # stage startup: starting the pod, loading libraries and the model; assumed

    def per_process(self, processes: int) -> "Device":
        """Returns what each of `processes` processes has: a GPU of its own, or its share of the cores."""
        return self if self.gpu else replace(self, flops=self.flops / processes, bandwidth=self.bandwidth / processes)


# Ordered by memory: without --gpu, the first one with at least the pool's memory is used.
GPUS = {
    device.name: device
    for device in (
        Device("l4", 24, 121e12, 0.30e12),  # L4 data sheet: 242 TFLOPS with sparsity, 300 GB/s
        Device("a100-40gb", 40, 312e12, 1.555e12),  # A100 data sheet, SXM and PCIe
        Device("l40s", 48, 362e12, 0.864e12),  # L40S data sheet: 733 TFLOPS with sparsity, 864 GB/s
        Device("h100", 80, 989e12, 3.35e12),  # H100 SXM data sheet: 1,979 TFLOPS with sparsity, 3.35 TB/s
        Device("a100-80gb", 80, 312e12, 2.039e12),  # A100 data sheet, SXM
        Device("h200", 141, 989e12, 4.8e12),  # H200 SXM data sheet: 4.8 TB/s
    )
}
CPU = "cpu"
DEVICES = (*GPUS, CPU)
_CORE_FLOPS = 150e9  # single precision, AVX-512 at 2.4 GHz; a third of it was measured with the tiny policy
_CORE_BANDWIDTH = 10e9  # typical of a server core


def device_for(pool: Pool, named: str | None) -> Device:
    """Returns the device that a pool's stages run on.

    Args:
        pool: the recipe's pool.
        named: the user's choice, one of DEVICES; None: the smallest GPU that fits the pool, with the pool's memory.

    Raises:
        InputError: there is no such device, or no known GPU has the pool's memory.
    """
    if named == CPU or (named is None and not pool.accelerators):
        return _cpu()
    if named is not None:
        if named not in GPUS:
            raise InputError(f"unknown --gpu {named!r}; expected one of {', '.join(DEVICES)}.{nearest(named, DEVICES)}")
        return GPUS[named]
    memory = pool.accelerator_memory_gib
    if memory is None:
        return GPUS["h100"]
    fitting = [device for device in GPUS.values() if device.memory_gib >= memory]
    if not fitting:
        raise InputError(f"no known GPU has {memory:g} GiB (accelerator_memory_gib); choose one with --gpu")
    return replace(fitting[0], memory_gib=memory)


def _cpu() -> Device:
    cores = int(os.environ.get("OMP_NUM_THREADS") or psutil.cpu_count(logical=False) or 1)
    return Device(
        f"{CPU}, {cores} core{'s' if cores > 1 else ''}",
        memory_gib=psutil.virtual_memory().total / GIB,
        flops=cores * _CORE_FLOPS,
        bandwidth=cores * _CORE_BANDWIDTH,
        gpu=False,
        half=False,
        bandwidth_share=0.5,
        start_seconds=4.0,  # measured: libraries and the tiny policy
    )
