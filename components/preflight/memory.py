"""The memory that training and sampling with transformers take, from the model's config and the recipe.

Preflight and `pipeline.py plan` share this model; docs/plan.md describes it, cites its sources and compares it with
measured usage. All figures are upper bounds: every sequence is assumed to have its maximum length.
"""

from dataclasses import dataclass

from components.shared.policy.model_size import ModelSize
from components.shared.sampling.vllm_memory import cache_bytes, sampling_activations
from components.shared.training.lora import ALL_WEIGHTS, LoRASettings
from components.shared.training.parallel import ONE_PROCESS, ParallelSettings

GIB = 2**30
# The trainers hold weights, gradients and Adam's two moments in single precision: 16 bytes per parameter.
WEIGHT_BYTES, GRADIENT_BYTES, ADAM_BYTES = 4, 4, 8
# Mixed precision keeps a bfloat16 copy of the weights from the forward to the backward pass (torch.autocast's cache).
AUTOCAST_BYTES = 2
# QLoRA's frozen weights: 4 bits, and 0.127 bits of quantisation constants (Dettmers et al. 2023, arXiv 2305.14314, 3).
_QUANTIZED_BYTES = 4.127 / 8
# What a layer keeps per token for the backward pass, in bytes per unit of the hidden size and of the MLP's intermediate
# size: norms, projections, rotated queries and keys, and residuals; gate, up, activation and product. The hidden size's
# factor was measured in single precision (docs/plan.md); in mixed precision the norms stay single, the rest is halved.
_ACTIVATIONS = {False: (104, 16), True: (64, 8)}  # by whether precision is mixed
# With gradient checkpointing a layer keeps only its input, in single precision, and one layer at a time has all of the
# above.
_CHECKPOINT_BYTES = 4
# TRL computes logits in tiles of at most this many tokens and vocabulary entries, never all at once. Eight
# single-precision copies of a tile were measured on a CPU (docs/plan.md); GPUs reduce a tile in place.
_TILE_TOKENS, _TILE_VOCABULARY, _TILE_BYTES = 4096, 32768, 8 * 4
# A key and a value in the cache while a policy is trained: under autocast keys are single and values half precision.
CACHE_PAIR_BYTES = {False: 4 + 4, True: 4 + 2}
# What FSDP2 gathers unsharded at one time: weights, their gradients, and the buffers that these are reduced from.
_UNSHARDED_COPIES = 3
_GATHERED_LAYERS = 2  # the current one and the next, which is prefetched


@dataclass(frozen=True)
class Memory:
    """Bytes on one accelerator, by use."""

    weights: int
    optimiser: int = 0  # gradients and moments
    exchanged: int = 0  # communication buffers: what processes gather and reduce
    activations: int = 0
    cache: int = 0  # keys and values
    engine: int = 0  # share of a vLLM colocated with the trainer

    @property
    def total(self) -> int:
        """The sum of all uses."""
        return self.weights + self.optimiser + self.exchanged + self.activations + self.cache + self.engine


def _weights(model: ModelSize, lora: LoRASettings, mixed: bool, reference: bool, sharded: bool) -> tuple[int, int]:
    """Bytes of the trainers' weights, over all shards, and the number of trainable parameters."""
    if not lora.rank:
        copies = AUTOCAST_BYTES if mixed and not sharded else 0  # FSDP2 gathers weights in half precision anyway
        return model.parameters * (WEIGHT_BYTES * (2 if reference else 1) + copies), model.parameters
    # Only the linear layers of the blocks are quantised, not the embeddings and the output layer. The KL penalty's
    # reference is the same weights without adapters.
    quantized = max(0, model.parameters - 2 * model.vocabulary * model.hidden) if lora.quantize else 0
    frozen = quantized * _QUANTIZED_BYTES + (model.parameters - quantized) * (2 if mixed else WEIGHT_BYTES)
    adapters = model.layers * model.linear_width * lora.rank  # one on every linear layer
    return round(frozen) + adapters * (WEIGHT_BYTES + (AUTOCAST_BYTES if mixed else 0)), adapters


def _exchanged(model: ModelSize, trained: int, parallel: ParallelSettings, copies: int) -> int:
    """Bytes of one process's communication buffers.

    Args:
        model: the policy's size.
        trained: number of trainable parameters.
        parallel: the processes that train.
        copies: bytes per parameter that FSDP2 gathers, over all copies.
    """
    if parallel.world == 1:
        return 0
    if parallel.sharding == "none":
        return trained * GRADIENT_BYTES  # DDP's gradient buckets, which are never freed
    return copies * (_GATHERED_LAYERS * model.layer_parameters + model.output_parameters)


def _shards(parallel: ParallelSettings) -> int:
    """Number of shards that weights, gradients and moments are divided into."""
    return parallel.world if parallel.sharding == "full" else 1


def training_memory(
    model: ModelSize,
    sequences: int,
    tokens: int,
    *,
    checkpointing: bool,
    mixed: bool,
    reference: bool = False,
    lora: LoRASettings = ALL_WEIGHTS,
    parallel: ParallelSettings = ONE_PROCESS,
) -> Memory:
    """Memory of one accelerator while it trains.

    Args:
        model: the policy's size.
        sequences: sequences in one forward and backward pass of one process.
        tokens: length of a sequence, prompt and completion.
        checkpointing: whether gradient checkpointing is on.
        mixed: whether it trains in bfloat16 mixed precision.
        reference: whether a frozen copy of the weights is kept for a KL penalty.
        lora: whether adapters are trained instead of all weights.
        parallel: the processes that train, and whether the model is sharded across them.
    """
    per_hidden, per_intermediate = _ACTIVATIONS[mixed]
    layer = per_hidden * model.hidden + per_intermediate * model.intermediate
    kept = model.layers * _CHECKPOINT_BYTES * model.hidden + layer if checkpointing else model.layers * layer
    rows = sequences * tokens
    tile = min(rows, _TILE_TOKENS) * min(model.vocabulary, _TILE_VOCABULARY) * _TILE_BYTES
    # The output matrix's gradient, before it is added to the others.
    output_gradient = 0 if lora.rank else model.output_parameters * GRADIENT_BYTES
    shards = _shards(parallel)
    weights, trained = _weights(model, lora, mixed, reference, shards > 1)
    return Memory(
        weights=weights // shards,
        optimiser=trained * (GRADIENT_BYTES + ADAM_BYTES) // shards,
        exchanged=_exchanged(model, trained, parallel, _UNSHARDED_COPIES * (2 if mixed else 4)),
        activations=rows * kept + tile + output_gradient,
    )


def exploring_memory(
    model: ModelSize,
    sequences: int,
    prompt_tokens: int,
    tokens: int,
    *,
    mixed: bool,
    reference: bool = False,
    lora: LoRASettings = ALL_WEIGHTS,
    parallel: ParallelSettings = ONE_PROCESS,
) -> Memory:
    """Memory of one accelerator while the model being trained samples an RL step's completions, all at once.

    Args:
        model: the policy's size.
        sequences: completions of a step that one process samples.
        prompt_tokens: length of a prompt.
        tokens: length of a sequence, prompt and completion.
        mixed: whether it trains in bfloat16 mixed precision.
        reference: whether a frozen copy of the weights is kept for a KL penalty.
        lora: whether adapters are trained instead of all weights.
        parallel: the processes that train, and whether the model is sharded across them.
    """
    shards = _shards(parallel)
    weights, trained = _weights(model, lora, mixed, reference, shards > 1)
    return Memory(
        weights=weights // shards,
        optimiser=trained * ADAM_BYTES // shards,  # gradients are freed after each update
        exchanged=_exchanged(model, trained, parallel, 2 if mixed else 4),
        activations=sampling_activations(model, sequences, sequences * prompt_tokens, 2 if mixed else 4),
        cache=sequences * tokens * cache_bytes(model, CACHE_PAIR_BYTES[mixed]),
    )


def waiting_memory(
    model: ModelSize,
    engine: int,
    *,
    reference: bool = False,
    lora: LoRASettings = ALL_WEIGHTS,
    mixed: bool,
    parallel: ParallelSettings = ONE_PROCESS,
) -> Memory:
    """Memory of one accelerator while vLLM samples on it and the trainer waits.

    Args:
        model: the policy's size.
        engine: bytes that vLLM takes.
        reference: whether a frozen copy of the weights is kept for a KL penalty.
        lora: whether adapters are trained instead of all weights.
        mixed: whether it trains in bfloat16 mixed precision.
        parallel: the processes that train, and whether the model is sharded across them.
    """
    shards = _shards(parallel)
    weights, trained = _weights(model, lora, mixed, reference, sharded=True)  # autocast's copies have been freed
    # FSDP2 sends the weights to vLLM one by one, in single precision; DDP's buckets are never freed.
    largest = model.output_parameters * WEIGHT_BYTES
    return Memory(
        weights=weights // shards,
        optimiser=trained * ADAM_BYTES // shards,
        exchanged=largest if shards > 1 else _exchanged(model, trained, parallel, 0),
        engine=engine,
    )


def evaluation_memory(model: ModelSize, sequences: int, prompt_tokens: int, tokens: int, *, half: bool) -> Memory:
    """Memory of sampling a batch of completions from a policy that is not being trained.

    Args:
        model: the policy's size.
        sequences: completions generated at once.
        prompt_tokens: length of a prompt.
        tokens: length of a sequence, prompt and completion.
        half: whether weights and cache are in bfloat16 rather than single precision.
    """
    value = 2 if half else 4
    return Memory(
        weights=model.parameters * value,
        activations=sampling_activations(model, sequences, sequences * prompt_tokens, value),
        cache=sequences * tokens * cache_bytes(model, 2 * value),
    )
