"""How long a GPU takes for training and for sampling, by arithmetic, memory traffic and the host: docs/plan.md."""

from components.preflight.estimate import ModelSize, cache_bytes
from components.preflight.vllm_memory import EngineMemory
from launch.planning.devices import Device

# FLOPs a parameter and token: a forward pass 2, a backward pass twice that (Kaplan et al. 2020, arXiv 2001.08361), and
# one more forward pass with gradient checkpointing.
FORWARD, TRAINING, RECOMPUTING = 2, 6, 2
# Host time that launching the kernels of one layer takes: measured with a batch of one and a model so small that its
# arithmetic takes no time.
_LAYER_SECONDS = 0.0005
# transformers' cache is read for attention, and read and written again to grow by a token. vLLM's is read alone.
_CACHE_PASSES = 3
# Host time of a step of vLLM's, which replays recorded kernels: scheduling, and drawing the tokens. Assumed.
_STEP_SECONDS = 0.005


def training_seconds(device: Device, model: ModelSize, tokens: int, flops: int, passes: int, processes: int) -> float:
    """Of forward and backward passes, by processes that each have an equal share of them.

    Arithmetic at the share of the peak, or, for a model that is too small for it, the launching of kernels.

    Args:
        device: what each process has.
        model: that is trained.
        tokens: in all, prompts and completions.
        flops: a parameter and token.
        passes: forward and backward passes in all.
        processes: that share them.
    """
    arithmetic = flops * model.parameters * tokens / (device.flops * device.flops_share)
    return max(arithmetic, passes * model.layers * 3 * _LAYER_SECONDS) / processes


def sampling_seconds(
    device: Device, model: ModelSize, sequences: int, prompt: int, completion: int, weights: int, pair_bytes: int
) -> float:
    """Of transformers, for a batch of completions that are all of the greatest length.

    Each token of the batch takes the longest of: reading weights and cache, arithmetic, launching kernels. The cache is
    half as long as at the end on the average.

    Args:
        device: that samples.
        model: that is sampled from.
        sequences: of the batch.
        prompt: its tokens.
        completion: its tokens.
        weights: bytes that are moved for one token.
        pair_bytes: of a key and a value.
    """
    flops, bandwidth = device.flops * device.flops_share, device.bandwidth * device.bandwidth_share
    cache = sequences * (prompt + completion / 2) * cache_bytes(model, pair_bytes)
    token = max(
        (weights + _CACHE_PASSES * cache) / bandwidth,
        FORWARD * model.parameters * sequences / flops,
        model.layers * _LAYER_SECONDS,
    )
    return completion * token + FORWARD * model.parameters * sequences * prompt / flops


def engine_seconds(
    device: Device,
    model: ModelSize,
    engine: EngineMemory,
    sequences: int,
    prompts: int,
    prompt: int,
    completion: int,
    gpus: int = 1,
) -> float:
    """Of vLLM, for completions that are all of the greatest length.

    A step gives each sequence that is in the cache its next token, and a sequence that ends makes room for another.

    Args:
        device: of each GPU.
        model: that is sampled from.
        engine: what fits in its cache.
        sequences: completions in all.
        prompts: different ones; each is read once.
        prompt: its tokens.
        completion: its tokens.
        gpus: that share weights, cache and arithmetic.
    """
    at_once = max(1, min(sequences, engine.at_once))
    flops, bandwidth = gpus * device.flops * device.flops_share, device.bandwidth * device.bandwidth_share
    cache = at_once * engine.token * (prompt + completion / 2)  # half as long as at the end on the average
    step = max(
        (engine.weights + cache) / bandwidth,
        FORWARD * model.parameters * at_once / flops,
        _STEP_SECONDS,
    )
    steps = completion * max(1.0, sequences / at_once)
    return steps * step + FORWARD * model.parameters * prompts * prompt / flops
