"""Preflight: looks at everything a run needs, in a minute, before the first GPU is asked for.

Reads one row of every source, checks the base policy, estimates memory and disk, and names the version of the
data: a digest of what the sources and the base policy hold now, and one of the store. The stages after it run again
when that changes, and come from the cache when it does not; a scheduled run with nothing new ends here.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.preflight.engine import EngineMemory, engine_memory, samples_with_vllm
from components.preflight.estimate import (
    GIB,
    ModelSize,
    checkpoints_disk,
    exploring_memory,
    policy_bytes,
    rollout_bytes,
    training_memory,
    waiting_memory,
)
from components.preflight.settings import RunSize
from components.shared import page
from components.shared.errors import InputError
from components.shared.grading import check_verifier
from components.shared.object_store.inputs import fetched_file, is_stored, stored_objects, stored_version
from components.shared.policy import check_policy, context_length
from components.shared.sources import Source, read_source
from components.shared.stage import files_digest, result, whole_file

PROMPT_TOKENS = 512  # assumed of a prompt, where the context allows it


def preflight(
    base_policy: str,
    sources: dict[str, Source],
    size: RunSize,
    *,
    accelerator_memory_gib: float,
    page_out: str | Path,
    artifact_uri: str = "",
    cache_generation: int = 0,
) -> tuple[str, dict[str, float]]:
    """Checks what a run needs.

    Args:
        base_policy: a Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].
        sources: of training problems and benchmarks, by the recipe key that names them.
        size: of the run.
        accelerator_memory_gib: of one accelerator of the training pool; 0 if it has none or is not known.
        page_out: HTML page to write: what was found.
        artifact_uri: of an artifact of the run. Its bucket is part of the version: results of before a change of store
            cannot be read any more, and must not come from the cache.
        cache_generation: `store.cache_generation`, part of the version too, for what the bucket's name does not tell.

    Returns:
        The version of the data, followed by that of the store where the run has one, and figures for KFP metrics.

    Raises:
        InputError: everything that is wrong, not just the first thing.
    """
    problems: list[str] = []
    found: list[tuple[str, str]] = []
    digest = hashlib.sha256()

    for key, source in sources.items():
        try:
            if source.verifier:
                check_verifier(source.verifier)
            first = next(iter(read_source(source, key)), None)
            if first is None:
                raise InputError(f"{key}: {source.uri} holds no rows")
            version = _source_version(source.uri, key)
        except InputError as error:
            problems.append(str(error))
            continue
        digest.update(f"{key}\0{version}\0".encode())
        found.append((key, f"{source.uri}: readable, judged by {first.verifier}"))

    figures: dict[str, float] = {}
    try:
        model, context, version = look_at_policy(base_policy)
        digest.update(version.encode())
        engine = _engine(model, context, size, accelerator_memory_gib)
        figures = _estimates(model, context, size, engine)
        found.append(
            ("base_policy", f"{base_policy}: {model.parameters / 1e6:,.1f} million parameters, context {context}")
        )
        problems += _too_large(figures, size, context, accelerator_memory_gib, engine)
    except InputError as error:
        problems.append(str(error))

    if problems:
        count = "one thing is" if len(problems) == 1 else f"{len(problems)} things are"
        raise InputError(f"{count} in the way of this run:\n" + "\n".join(f"- {problem}" for problem in problems))
    data_version = digest.hexdigest()[:16] + _store_version(artifact_uri, cache_generation)
    _write_page(page_out, data_version, found, figures)
    result(
        f"data version {data_version}; {len(sources)} sources readable; RL {figures['rl_training_gib']:.1f} GiB, "
        f"sampling {figures['rl_sampling_gib']:.1f} GiB of accelerator memory"
    )
    return data_version, figures


def _store_version(artifact_uri: str, cache_generation: int) -> str:
    """What changes with the bucket that artifacts go to, or when a user says so; empty for a folder of this machine."""
    parts = urlsplit(artifact_uri)
    bucket = f"{parts.scheme}://{parts.netloc}?{parts.query}" if parts.netloc else ""  # a query may hold an endpoint
    if not bucket and not cache_generation:
        return ""
    return f"-{hashlib.sha256(f'{bucket} {cache_generation}'.encode()).hexdigest()[:6]}"


def _source_version(uri: str, key: str) -> str:
    """What tells whether a source has changed: a file's digest, a hub data set's commit, else the URI itself."""
    if uri.startswith("hf://"):
        repository, _, query = uri.removeprefix("hf://").partition("?")
        if Path(repository).exists():  # a folder in a repository's place
            return files_digest(sorted(p for p in Path(repository).rglob("*") if p.is_file()))
        revision = dict(part.partition("=")[::2] for part in query.split("&")).get("revision")
        return f"{uri} {_hub_commit('dataset', repository, revision, key)}"
    if is_stored(uri):
        return f"{uri} {stored_version(uri)}"
    return uri if "://" in uri else f"{uri} {files_digest([Path(uri)])}"


def look_at_policy(base_policy: str) -> tuple[ModelSize, int, str]:
    """Looks at a base policy where it is, without fetching its weights.

    Args:
        base_policy: a Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].

    Returns:
        Its size, its context in tokens, and what tells whether it has changed.

    Raises:
        InputError: it is not there, cannot be reached, or is no policy.
    """
    if is_stored(base_policy):
        return _stored_policy(base_policy)
    if not base_policy.startswith("hf://"):
        check_policy(base_policy, base_policy)
        weight_bytes = sum(file.stat().st_size for file in Path(base_policy).glob("*.safetensors"))
        config = json.loads((Path(base_policy) / "config.json").read_text())
        size = ModelSize.from_config(config, weight_bytes)
        files = sorted(file for file in Path(base_policy).iterdir() if file.is_file())
        return size, context_length(base_policy), files_digest(files)
    from httpx import HTTPError
    from huggingface_hub import HfApi, hf_hub_download

    repository, _, revision = base_policy.removeprefix("hf://").partition("@")
    commit = _hub_commit("model", repository, revision or None, "base_policy")
    try:
        names = {
            entry.path: entry.size for entry in HfApi().list_repo_tree(repository, revision=commit) if _is_file(entry)
        }
        config = json.loads(Path(hf_hub_download(repository, "config.json", revision=commit)).read_text())
    except (HTTPError, OSError, ValueError) as error:
        raise InputError(f"base policy {base_policy!r} cannot be looked at on the hub: {error}") from None
    weights = [size for name, size in names.items() if name.endswith(".safetensors")]
    if not weights:
        raise InputError(f"base policy {base_policy!r} has no *.safetensors weights")
    context = config.get("text_config", config).get("max_position_embeddings", 0)
    return ModelSize.from_config(config, sum(weights)), context, commit


def _stored_policy(uri: str) -> tuple[ModelSize, int, str]:
    objects = {item.name.rpartition("/")[2]: item.size for item in stored_objects(uri)}
    weights = [size for name, size in objects.items() if name.endswith(".safetensors")]
    if not weights or "config.json" not in objects:
        raise InputError(
            f"base policy {uri!r}: expected a Hugging Face model folder, with config.json and *.safetensors"
        )
    with fetched_file(f"{uri.rstrip('/')}/config.json") as path:
        config = json.loads(path.read_text())
    context = config.get("text_config", config).get("max_position_embeddings", 0)
    return ModelSize.from_config(config, sum(weights)), context, stored_version(uri)


def _is_file(entry: Any) -> bool:
    return getattr(entry, "size", None) is not None


def _hub_commit(kind: str, repository: str, revision: str | None, key: str) -> str:
    from httpx import HTTPError
    from huggingface_hub import HfApi

    try:
        sha: str | None = HfApi().repo_info(repository, repo_type=kind, revision=revision).sha
    except (HTTPError, OSError, ValueError) as error:
        raise InputError(f"{key}: {kind} {repository!r} cannot be looked at on the hub: {error}") from None
    return sha or ""


def _lengths(context: int, size: RunSize) -> tuple[int, int]:
    """Tokens of a prompt and of the whole sequence."""
    tokens = min(context, PROMPT_TOKENS + size.max_completion_tokens)
    return max(1, tokens - size.max_completion_tokens), tokens


def _engine(model: ModelSize, context: int, size: RunSize, accelerator_gib: float) -> EngineMemory | None:
    """vLLM beside the trainer, where it samples and the accelerator's memory is known."""
    if not samples_with_vllm(size.engine, accelerator_gib > 0):
        return None
    share = int(size.gpu_memory_utilization * accelerator_gib * GIB)
    return engine_memory(model, share, size.process_completions, _lengths(context, size)[1])


def _estimates(model: ModelSize, context: int, size: RunSize, engine: EngineMemory | None) -> dict[str, float]:
    prompt, tokens = _lengths(context, size)
    training = training_memory(
        model,
        size.forward_completions,
        tokens,
        checkpointing=size.gradient_checkpointing,
        mixed=size.mixed,
        reference=size.reference,
        lora=size.lora,
        parallel=size.parallel,
    )
    if engine is None:
        sampling = exploring_memory(
            model,
            size.process_completions,
            prompt,
            tokens,
            mixed=size.mixed,
            reference=size.reference,
            lora=size.lora,
            parallel=size.parallel,
        )
    else:
        if not size.engine_sleeps:
            training = dataclasses.replace(training, engine=engine.share)
        sampling = waiting_memory(
            model, engine.share, reference=size.reference, lora=size.lora, mixed=size.mixed, parallel=size.parallel
        )
    rollouts = rollout_bytes(size.steps * size.completions * (1 + size.refill_rounds), size.max_completion_tokens)
    # The launcher copies a stage's inputs to the pod's disk and its outputs from there: the rollouts, two policies, and
    # those kept on the way. Checkpoints lie there too, where progress is kept.
    disk = (2 + size.snapshots) * policy_bytes(model) + rollouts + checkpoints_disk(model)
    names = ("rl_training_gib", "rl_sampling_gib", "rollouts_gib", "training_pod_disk_gib")
    return dict(zip(names, (b / GIB for b in (training.total, sampling.total, rollouts, disk)), strict=True))


def _too_large(
    figures: dict[str, float], size: RunSize, context: int, accelerator_gib: float, engine: EngineMemory | None
) -> Iterator[str]:
    if size.max_completion_tokens >= context:
        yield (
            f"rl.max_completion_tokens is {size.max_completion_tokens}, but the model's context is {context} tokens, "
            f"prompt included; lower it"
        )
    training = (
        "lower rl.completions_per_forward, turn on rl.gradient_checkpointing, train adapters alone (rl.lora.rank), "
        "spread the policy over several GPUs (rl.parallel)"
    )
    sampling = "lower rl.prompts_per_step or rl.max_completion_tokens"
    if engine is not None:
        sampling = "lower rl.gpu_memory_utilization"
        training += "" if size.engine_sleeps else ", let vLLM give its memory back (rl.engine_sleeps)"
        if engine.needed > engine.share:
            yield (
                f"vLLM has {engine.share / GIB:.1f} GiB of an accelerator (rl.gpu_memory_utilization), but weights and "
                f"one sequence take {engine.needed / GIB:.1f} GiB; raise it"
            )
    for figure, what, remedy in (
        ("rl_training_gib", "training", training),
        ("rl_sampling_gib", "sampling a step's completions at once" if engine is None else "sampling", sampling),
    ):
        if accelerator_gib and figures[figure] > accelerator_gib:
            yield (
                f"{what} is estimated at {figures[figure]:.0f} GiB, but an accelerator of the training pool has "
                f"{accelerator_gib:.0f} GiB (pools.training.accelerator_memory_gib); {remedy}, or take a larger one"
            )


def write_parameter(path: str | Path, value: Any) -> None:
    """Writes a value where KFP reads an output parameter: text as it is, anything else as JSON."""
    with whole_file(path) as temporary:
        temporary.write_text(value if isinstance(value, str) else json.dumps(value))


def _write_page(path: str | Path, version: str, found: list[tuple[str, str]], figures: dict[str, float]) -> None:
    page.page(
        path,
        "Preflight",
        f"Everything that could be looked at is in order; data version {version}.",
        page.heading("Found"),
        page.table(["what", "how it is"], found),
        page.heading("Estimates"),
        page.table(
            ["figure", "GiB"], [[name.removesuffix("_gib").replace("_", " "), value] for name, value in figures.items()]
        ),
        page.note("Round figures for one accelerator; see docs/plan.md."),
    )
