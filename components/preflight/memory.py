"""The memory and the disk of a run, from the model's config and the recipe, before a GPU is asked for.

One model for preflight and for `pipeline.py plan`; docs/plan.md writes it down with its sources and sets it beside
what runs used. Figures are upper bounds: every sequence is taken as long as it may get.
"""

from dataclasses import dataclass

from components.preflight.model_size import ModelSize
from components.shared.training.lora import ALL_WEIGHTS, LoRASettings
from components.shared.training.processes import ONE_PROCESS, ParallelSettings

GIB = 2**30
# The trainers hold weights and gradients in single precision and Adam's two moments: 16 bytes a parameter.
WEIGHT_BYTES, GRADIENT_BYTES, ADAM_BYTES = 4, 4, 8
# Mixed precision keeps a bfloat16 copy of the weights from the forward to the backward pass (torch.autocast's cache).
AUTOCAST_BYTES = 2
# QLoRA's frozen weights: 4 bits, and 0.127 bits of quantised constants (Dettmers et al. 2023, arXiv 2305.14314, 3).
_QUANTIZED_BYTES = 4.127 / 8
# What a layer keeps of a token for the backward pass, in bytes a unit of the hidden and of the MLP's inner size: norms,
# projections, rotated queries and keys and residuals; gate, up, activation and product. The hidden size's factor was
# measured in single precision (docs/plan.md); in mixed precision the norms stay single, and the rest is halved.
_ACTIVATIONS = {False: (104, 16), True: (64, 8)}  # by whether precision is mixed
# With gradient checkpointing a layer keeps its input alone, which stays in single precision, and one layer at a time
# has all of the above.
_CHECKPOINT_BYTES = 4
# TRL makes logits in tiles of at most so many tokens and words, and never as a whole. Eight single-precision copies of
# a tile were measured on a CPU (docs/plan.md); GPUs fold a tile in place.
_TILE_TOKENS, _TILE_WORDS, _TILE_BYTES = 4096, 32768, 8 * 4
# A key and a value in the cache while a policy is trained: under autocast keys are single and values half precision.
CACHE_PAIR_BYTES = {False: 4 + 4, True: 4 + 2}
# Logits of the next token while sampling, their probabilities, and the same again, sorted, for top_p.
_SAMPLING_LOGIT_BYTES = 4 * 4
# What FSDP2 holds whole at a time: weights, their gradients, and the buffers that these are reduced from.
_WHOLE_COPIES = 3
_GATHERED_LAYERS = 2  # the one that computes and the next, which is gathered meanwhile


@dataclass(frozen=True)
class Memory:
    """Bytes of one accelerator, by what they are for."""

    weights: int
    optimiser: int = 0  # gradients and moments
    exchanged: int = 0  # what processes gather from each other and reduce
    activations: int = 0
    cache: int = 0  # keys and values
    engine: int = 0  # vLLM's share beside a trainer

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.optimiser + self.exchanged + self.activations + self.cache + self.engine


def _weights(model: ModelSize, lora: LoRASettings, mixed: bool, reference: bool, spread: bool) -> tuple[int, int]:
    """Bytes of the weights that trainers hold, together where they are spread, and how many of them are trained."""
    if not lora.rank:
        copies = AUTOCAST_BYTES if mixed and not spread else 0  # FSDP2 gathers weights in half precision as it is
        return model.parameters * (WEIGHT_BYTES * (2 if reference else 1) + copies), model.parameters
    # Quantised are the linear layers of the blocks alone, not the embeddings and the output layer. The reference of a
    # KL penalty is the same weights without adapters.
    quantized = max(0, model.parameters - 2 * model.vocabulary * model.hidden) if lora.quantize else 0
    frozen = quantized * _QUANTIZED_BYTES + (model.parameters - quantized) * (2 if mixed else WEIGHT_BYTES)
    adapters = model.layers * model.linear_width * lora.rank  # one on every linear layer
    return round(frozen) + adapters * (WEIGHT_BYTES + (AUTOCAST_BYTES if mixed else 0)), adapters


def _exchanged(model: ModelSize, trained: int, parallel: ParallelSettings, copies: int) -> int:
    """Bytes that a process has because there are others.

    Args:
        model: its size.
        trained: parameters that are trained.
        parallel: the processes.
        copies: bytes of a parameter that FSDP2 gathers, in all its copies.
    """
    if parallel.world == 1:
        return 0
    if parallel.sharding == "none":
        return trained * GRADIENT_BYTES  # the buckets that DDP reduces gradients in, which stay there
    return copies * (_GATHERED_LAYERS * model.layer_parameters + model.output_parameters)


def _sharers(parallel: ParallelSettings) -> int:
    """Among how many processes weights, gradients and moments are divided."""
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
    """Memory of one accelerator that trains.

    Args:
        model: its size.
        sequences: of one forward and backward pass of a process.
        tokens: of a sequence, prompt and completion.
        checkpointing: whether gradient checkpointing is on.
        mixed: whether it trains in bfloat16 mixed precision.
        reference: whether a frozen copy of the weights is kept for a KL penalty.
        lora: whether adapters are trained in place of all weights.
        parallel: the processes that train, and whether the model is spread over them.
    """
    of_hidden, of_intermediate = _ACTIVATIONS[mixed]
    layer = of_hidden * model.hidden + of_intermediate * model.intermediate
    kept = model.layers * _CHECKPOINT_BYTES * model.hidden + layer if checkpointing else model.layers * layer
    rows = sequences * tokens
    tile = min(rows, _TILE_TOKENS) * min(model.vocabulary, _TILE_WORDS) * _TILE_BYTES
    # The output matrix's, before it is added to the others.
    output_gradient = 0 if lora.rank else model.output_parameters * GRADIENT_BYTES
    sharers = _sharers(parallel)
    weights, trained = _weights(model, lora, mixed, reference, sharers > 1)
    return Memory(
        weights=weights // sharers,
        optimiser=trained * (GRADIENT_BYTES + ADAM_BYTES) // sharers,
        exchanged=_exchanged(model, trained, parallel, _WHOLE_COPIES * (2 if mixed else 4)),
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
    """Memory of sampling an RL step's completions, all at once, by the model that is being trained.

    Args:
        model: its size.
        sequences: completions of a step that a process samples.
        prompt_tokens: of a prompt.
        tokens: of a sequence, prompt and completion.
        mixed: whether it trains in bfloat16 mixed precision.
        reference: whether a frozen copy of the weights is kept for a KL penalty.
        lora: whether adapters are trained in place of all weights.
        parallel: the processes that train, and whether the model is spread over them.
    """
    sharers = _sharers(parallel)
    weights, trained = _weights(model, lora, mixed, reference, sharers > 1)
    return Memory(
        weights=weights // sharers,
        optimiser=trained * ADAM_BYTES // sharers,  # gradients are given back after each update
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
        model: its size.
        engine: bytes that vLLM takes.
        reference: whether a frozen copy of the weights is kept for a KL penalty.
        lora: whether adapters are trained in place of all weights.
        mixed: whether it trains in bfloat16 mixed precision.
        parallel: the processes that train, and whether the model is spread over them.
    """
    sharers = _sharers(parallel)
    weights, trained = _weights(model, lora, mixed, reference, spread=True)  # autocast's copies are gone
    # FSDP2 hands weights over one by one, in single precision; DDP's buckets stay there.
    largest = model.output_parameters * WEIGHT_BYTES
    return Memory(
        weights=weights // sharers,
        optimiser=trained * ADAM_BYTES // sharers,
        exchanged=largest if sharers > 1 else _exchanged(model, trained, parallel, 0),
        engine=engine,
    )


def evaluation_memory(model: ModelSize, sequences: int, prompt_tokens: int, tokens: int, *, half: bool) -> Memory:
    """Memory of sampling so many completions at once from a policy that is not trained.

    Args:
        model: its size.
        sequences: generated at once.
        prompt_tokens: of a prompt.
        tokens: of a sequence, prompt and completion.
        half: whether weights and cache are in bfloat16, else in single precision.
    """
    value = 2 if half else 4
    return Memory(
        weights=model.parameters * value,
        activations=sampling_activations(model, sequences, sequences * prompt_tokens, value),
        cache=sequences * tokens * cache_bytes(model, 2 * value),
    )


def cache_bytes(model: ModelSize, pair_bytes: int) -> int:
    """Bytes of a token's keys and values in all layers, where a key and a value take `pair_bytes`."""
    return model.layers * model.key_value_width * pair_bytes


def sampling_activations(model: ModelSize, sequences: int, prefilled: int, value: int) -> int:
    """Bytes of prompts that pass through one layer after the other; then of the next token's logits.

    Args:
        model: its size.
        sequences: that get a token at once.
        prefilled: tokens of prompts that pass at once.
        value: bytes of a number.
    """
    prefill = prefilled * (4 * model.hidden + 3 * model.intermediate) * value
    return prefill + sequences * model.vocabulary * _SAMPLING_LOGIT_BYTES
