"""How long a GPU takes to train and to sample, from arithmetic, memory traffic and host overhead: see docs/plan.md."""

from components.shared.policy.model_size import ModelSize
from components.shared.sampling.vllm_memory import EngineMemory, cache_bytes
from launch.planning.devices import Device

# FLOPs per parameter and token: 2 for a forward pass, twice that for a backward pass (Kaplan et al. 2020, arXiv
# 2001.08361), and one more forward pass with gradient checkpointing.
FORWARD, TRAINING, RECOMPUTING = 2, 6, 2
# Host time to launch the kernels of one layer: measured with a batch of one on a model so small that its arithmetic
# takes no time.
_LAYER_SECONDS = 0.0005
# transformers reads its cache for attention, and reads and rewrites it to append a token. vLLM only reads it.
_CACHE_PASSES = 3
# Host time of one vLLM step, which replays captured CUDA graphs: scheduling and sampling the tokens. Assumed.
_STEP_SECONDS = 0.005


def training_seconds(device: Device, model: ModelSize, tokens: int, flops: int, passes: int, processes: int) -> float:
    """Returns the seconds of forward and backward passes that processes share equally.

    The time is that of the arithmetic at the reached share of the peak or, for a model too small for that, of launching
    the kernels.

    Args:
        device: what each process runs on.
        model: size of the model that is trained.
        tokens: total tokens, prompts and completions.
        flops: FLOPs per parameter and token.
        passes: total number of forward and backward passes.
        processes: number of processes that share them.
    """
    arithmetic = flops * model.parameters * tokens / (device.flops * device.flops_share)
    return max(arithmetic, passes * model.layers * 3 * _LAYER_SECONDS) / processes


def transformers_seconds(
    device: Device, model: ModelSize, sequences: int, prompt: int, completion: int, weights: int, pair_bytes: int
) -> float:
    """Returns the seconds that transformers takes for one batch of completions, all of maximum length.

    Each token of the batch takes the longest of: reading weights and cache, arithmetic, launching kernels. On average
    the cache is half as long as at the end.

    Args:
        device: what the model runs on.
        model: size of the model that samples.
        sequences: batch size.
        prompt: tokens per prompt.
        completion: tokens per completion.
        weights: bytes of weights moved per token.
        pair_bytes: bytes of one key and one value.
    """
    flops, bandwidth = device.flops * device.flops_share, device.bandwidth * device.bandwidth_share
    cache = sequences * (prompt + completion / 2) * cache_bytes(model, pair_bytes)
    token = max(
        (weights + _CACHE_PASSES * cache) / bandwidth,
        FORWARD * model.parameters * sequences / flops,
        model.layers * _LAYER_SECONDS,
    )
    return completion * token + FORWARD * model.parameters * sequences * prompt / flops


def vllm_seconds(
    device: Device,
    model: ModelSize,
    engine: EngineMemory,
    sequences: int,
    prompts: int,
    prompt: int,
    completion: int,
    gpus: int = 1,
) -> float:
    """Returns the seconds that vLLM takes for completions that are all of maximum length.

    Each step produces one token for every sequence in the cache; when a sequence ends, a waiting one takes its place.

    Args:
        device: each GPU.
        model: size of the model that samples.
        engine: what fits in the KV cache.
        sequences: total number of completions.
        prompts: number of distinct prompts; each is prefilled once.
        prompt: tokens per prompt.
        completion: tokens per completion.
        gpus: tensor-parallel size: GPUs that share weights, cache and arithmetic.
    """
    at_once = max(1, min(sequences, engine.at_once))
    flops, bandwidth = gpus * device.flops * device.flops_share, device.bandwidth * device.bandwidth_share
    cache = at_once * engine.token * (prompt + completion / 2)  # on average half as long as at the end
    step = max(
        (engine.weights + cache) / bandwidth,
        FORWARD * model.parameters * at_once / flops,
        _STEP_SECONDS,
    )
    steps = completion * max(1.0, sequences / at_once)
    return steps * step + FORWARD * model.parameters * prompts * prompt / flops
