"""Preflight: looks at everything a run needs, in a minute, before the first GPU is asked for.

Reads one row of every source, checks the base policy, estimates memory and disk, and names the version of the
data: a digest of what the sources and the base policy hold now, and one of the store. The stages after it run again
when that changes, and come from the cache when it does not; a scheduled run with nothing new ends here.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2.exceptions import TemplateError

from components.preflight.base_policy import hub_commit, looked_at_policy
from components.preflight.disk import checkpoints_disk, policy_bytes, rollout_bytes
from components.preflight.memory import GIB, exploring_memory, training_memory, waiting_memory
from components.preflight.model_size import ModelSize
from components.preflight.settings import RunSize
from components.preflight.verifiers import TRIED, try_verifier
from components.preflight.vllm_memory import EngineMemory, engine_memory, samples_with_vllm
from components.shared.data.sources import RawProblem, Source, is_file_source, prompt_of, read_source, stored_files
from components.shared.data.table_files import local_files
from components.shared.errors import InputError
from components.shared.grading import GradingSettings, check_verifier, is_user_function
from components.shared.object_store.inputs import is_stored, stored_version
from components.shared.policy import load_tokenizer, rendered_prompt
from components.shared.reporting import page
from components.shared.stage import files_digest, result, whole_file

_GRADING = GradingSettings()  # where the caller does not know the recipe's
_LOOKED_AT = 20  # rows of a source
PROMPT_TOKENS = 512  # assumed of a prompt, where the context allows it


def preflight(
    base_policy: str,
    sources: dict[str, Source],
    size: RunSize,
    *,
    accelerator_memory_gib: float,
    page_out: str | Path,
    grading: GradingSettings = _GRADING,
    prompt_template: str | None = None,
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
        grading: the recipe's `grading` section.
        prompt_template: the recipe's `data.prompt_template`; None where the caller does not know it.
        artifact_uri: of an artifact of the run. Its bucket is part of the version: results of before a change of store
            cannot be read any more, and must not come from the cache.
        cache_generation: `store.cache_generation`, part of the version too, for what the bucket's name does not tell.

    Returns:
        The version of the data, followed by that of the store where the run has one, and figures for KFP metrics.

    Raises:
        InputError: everything that is wrong, not just the first thing.
    """
    findings = look(base_policy, sources, size, accelerator_memory_gib, grading, prompt_template)
    if findings.problems:
        raise InputError(in_the_way(findings.problems))
    findings.version += _store_version(artifact_uri, cache_generation)
    figures = findings.figures
    _write_page(page_out, findings, prompt_template is not None)
    for key, prompt in findings.prompts.items():
        print(f"the first problem of {key}, as the policy is sent it: {prompt!r}")
    result(
        f"data version {findings.version}; {len(sources)} sources readable; RL {figures['rl_training_gib']:.1f} GiB, "
        f"sampling {figures['rl_sampling_gib']:.1f} GiB of accelerator memory"
    )
    return findings.version, figures


def in_the_way(problems: list[str]) -> str:
    """Everything that is wrong, in one message."""
    count = "one thing is" if len(problems) == 1 else f"{len(problems)} things are"
    return f"{count} in the way of this run:\n" + "\n".join(f"- {problem}" for problem in problems)


@dataclass
class Findings:
    """What was found of a run's inputs."""

    problems: list[str] = field(default_factory=list)  # what is wrong
    found: list[tuple[str, str]] = field(default_factory=list)  # what is there, and how it is
    figures: dict[str, float] = field(default_factory=dict)  # estimates
    prompts: dict[str, str] = field(default_factory=dict)  # source -> the first problem as the policy is sent it
    version: str = ""  # of the data


def look(
    base_policy: str,
    sources: dict[str, Source],
    size: RunSize | None,
    accelerator_memory_gib: float,
    grading: GradingSettings = _GRADING,
    prompt_template: str | None = None,
) -> Findings:
    """Looks at everything that a run needs; arguments as of `preflight`. Without a size, nothing is estimated."""
    findings, digest = Findings(), hashlib.sha256()
    first: dict[str, RawProblem] = {}
    training, complete = set[str](), True  # texts of training problems, and whether these are all
    for key, source in sources.items():
        trains = key.startswith("data.train.")
        wanted = max(_LOOKED_AT, size.prompts_per_step - len(training) if size and trains else 0)
        try:
            if source.verifier:
                check_verifier(source.verifier)
            rows = list(islice(read_source(source, key), wanted))
            if not rows:
                raise InputError(f"{key}: {source.uri} holds no rows")
            usable = [problem for problem in rows if problem.text and problem.answer and not problem.fault]
            if not usable:
                raise InputError(f"{key}: {source.uri}: {_none_usable(rows)}")
            judged = f"judged by {rows[0].verifier}"
            if is_user_function(rows[0].verifier):
                judged += f", which {try_verifier(key, usable[:TRIED], grading)}"
            version = _source_version(source.uri, key)
        except InputError as error:
            findings.problems.append(str(error))
            complete = complete and not trains
            continue
        if trains:
            training |= {problem.text or "" for problem in usable}
            complete = complete and len(rows) < wanted
        first[key] = usable[0]
        digest.update(f"{key}\0{version}\0".encode())
        findings.found.append((key, f"{source.uri}: readable, {judged}"))
    if size and complete and len(training) < size.prompts_per_step:
        findings.problems.append(
            f"data.train has {len(training)} usable problems, fewer than rl.prompts_per_step "
            f"({size.prompts_per_step}); lower it, or give more problems"
        )
    try:
        with looked_at_policy(base_policy) as policy:
            digest.update(policy.version.encode())
            findings.found.append(
                (
                    "base_policy",
                    f"{base_policy}: {policy.size.parameters / 1e6:,.1f} million parameters, context {policy.context}",
                )
            )
            if size:
                engine = _engine(policy.size, policy.context, size, accelerator_memory_gib)
                findings.figures = _estimates(policy.size, policy.context, size, engine)
                findings.problems += _too_large(findings.figures, size, policy.context, accelerator_memory_gib, engine)
            findings.prompts = _prompts(policy.folder, first, prompt_template or "{problem}")
    except InputError as error:
        findings.problems.append(str(error))
    findings.version = digest.hexdigest()[:16]
    return findings


def _none_usable(rows: list[RawProblem]) -> str:
    """What is wrong with the rows that were looked at, none of which can be used."""
    row = rows[0]
    why = "no text" if not row.text else row.detail or "no answer"
    return (
        f"none of the {len(rows)} rows that were looked at can be used; {row.row}: {why}. Name the columns that hold "
        f"problem and answer with prompt_columns and answer_column"
    )


def _prompts(policy: Path, first: dict[str, RawProblem], template: str) -> dict[str, str]:
    tokenizer, prompts = load_tokenizer(policy), {}
    for key, problem in first.items():
        try:
            prompts[key] = rendered_prompt(tokenizer, prompt_of(problem, template))
        except (TemplateError, ValueError, TypeError) as error:
            raise InputError(
                f"{key}, {problem.row}: the policy's chat template refuses this conversation: {error}"
            ) from None
    return prompts


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
        return f"{uri} {hub_commit('dataset', repository, revision, key)}"
    if is_stored(uri):
        return "\0".join(f"{one} {stored_version(one)}" for one in stored_files(uri, key))
    return f"{uri} {files_digest(local_files(uri, key))}" if is_file_source(uri) else uri


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
        size.micro_batch_completions,
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
        if not size.sleep_mode:
            training = dataclasses.replace(training, engine=engine.share)
        sampling = waiting_memory(
            model, engine.share, reference=size.reference, lora=size.lora, mixed=size.mixed, parallel=size.parallel
        )
    rollouts = rollout_bytes(size.steps * size.completions * (1 + size.resample_rounds), size.max_completion_tokens)
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
        "lower rl.micro_batch_size, turn on rl.gradient_checkpointing, train adapters alone (rl.lora.rank), "
        "spread the policy over several GPUs (rl.parallel)"
    )
    sampling = "lower rl.prompts_per_step or rl.max_completion_tokens"
    if engine is not None:
        sampling = "lower rl.gpu_memory_utilization"
        training += "" if size.sleep_mode else ", let vLLM give its memory back (rl.sleep_mode)"
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


def _write_page(path: str | Path, findings: Findings, in_template: bool) -> None:
    page.page(
        path,
        "Preflight",
        f"Everything that could be looked at is in order; data version {findings.version}.",
        page.heading("Found"),
        page.table(["what", "how it is"], findings.found),
        page.heading("What the policy is sent"),
        page.note(
            "The first usable problem of each source, whole, as the chat template renders it"
            + ("." if in_template else "; data.prompt_template comes to it in data preparation.")
        ),
        page.table(["source", "prompt"], [list(pair) for pair in findings.prompts.items()]),
        page.heading("Estimates"),
        page.table(
            ["figure", "GiB"],
            [[name.removesuffix("_gib").replace("_", " "), value] for name, value in findings.figures.items()],
        ),
        page.note("Round figures for one accelerator; see docs/plan.md."),
    )
