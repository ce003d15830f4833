"""Preflight: checks everything a run needs, in about a minute, before the first GPU is requested.

Reads the first rows of every source, checks the base policy, estimates memory and disk, and derives the data version: a
digest of the current contents of the sources and the base policy, followed by one of the store. Later stages run again
when it changes, and come from the cache when it does not; a scheduled run with nothing new ends here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2.exceptions import TemplateError

from components.preflight.base_policy import inspected_policy
from components.preflight.earlier import check_earlier
from components.preflight.fit import estimates, oversized, vllm_beside_trainer, wrong_placement
from components.preflight.resolve import resolve
from components.preflight.settings import EvaluationSize, RunSize
from components.preflight.sources import check_source
from components.shared.data.sources import RawProblem, Source, keyed_sources, prompt_of
from components.shared.errors import InputError
from components.shared.grading import GradingSettings
from components.shared.policy import Policy
from components.shared.reporting import page
from components.shared.stage import result, whole_file

_GRADING = GradingSettings()  # for callers that do not know the recipe's
_SAMPLED_ROWS = 20  # read from each source


def run_preflight(
    base_policy: str,
    parameters: dict[str, Any],
    outputs: Mapping[str, str],
    earlier: tuple[str, int] | None,
    *,
    page_out: str | Path,
    artifact_uri: str,
) -> None:
    """Runs the stage: resolves every stage's settings, checks what the run needs, and writes the output parameters.

    Args:
        base_policy: a Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].
        parameters: the pipeline parameters, as `resolve` takes them.
        outputs: path to write each output parameter to: `data_version`, and what `resolve` returns.
        earlier: results folder and number of iterations of the run that this one continues; None for a new run.
        page_out: HTML page to write.
        artifact_uri: URI of one of the run's artifacts, as `preflight` takes it.

    Raises:
        InputError: lists everything that is wrong.
    """
    settings = resolve(parameters)
    if earlier is not None:
        results, iterations = earlier
        check_earlier(results, iterations, base_policy, settings)
    version, _ = preflight(
        base_policy,
        keyed_sources(parameters["data_train"], parameters["data_benchmarks"]),
        RunSize.check(settings["exploration_settings"]["rl"], "rl"),
        accelerator_memory_gib=parameters["pools"].get("training", {}).get("accelerator_memory_gib", 0),
        page_out=page_out,
        artifact_uri=artifact_uri,
        cache_generation=(parameters["advanced"].get("store") or {}).get("cache_generation", 0),
        grading=GradingSettings.check(settings["preparation_settings"]["grading"], "grading"),
        prompt_template=settings["preparation_settings"]["data"].get("prompt_template"),
        evaluation=EvaluationSize.check(settings["evaluation_settings"]["eval"], "eval"),
        inference_memory_gib=parameters["pools"].get("inference", {}).get("accelerator_memory_gib", 0),
    )
    for name, path in outputs.items():
        _write_parameter(path, {**settings, "data_version": version}[name])


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
    evaluation: EvaluationSize | None = None,
    inference_memory_gib: float = 0,
) -> tuple[str, dict[str, float]]:
    """Checks what a run needs.

    Args:
        base_policy: a Hugging Face model folder, s3://BUCKET/FOLDER, or hf://ORG/NAME[@REVISION].
        sources: training problems and benchmarks, by the recipe key that names them.
        size: the run's size.
        accelerator_memory_gib: memory of one accelerator of the training pool; 0 if it has none or it is unknown.
        page_out: HTML page to write, with the findings.
        grading: the recipe's `grading` section.
        prompt_template: the recipe's `data.prompt_template`; None if the caller does not know it.
        artifact_uri: URI of one of the run's artifacts. Its bucket is part of the version: after a change of store,
            earlier results can no longer be read and must not come from the cache.
        cache_generation: `store.cache_generation`, also part of the version, for what the bucket's name does not tell.
        evaluation: the size of evaluation; None if the caller does not know it.
        inference_memory_gib: memory of one accelerator of the inference pool; 0 if it has none or it is unknown.

    Returns:
        The data version, followed by that of the store if the run has one, and the estimates for KFP metrics.

    Raises:
        InputError: lists everything that is wrong, not just the first error.
    """
    findings = inspect_inputs(
        base_policy, sources, size, accelerator_memory_gib, grading, prompt_template, evaluation, inference_memory_gib
    )
    if findings.errors:
        raise InputError(error_list(findings.errors))
    findings.version += _store_version(artifact_uri, cache_generation)
    figures = findings.figures
    _write_page(page_out, findings, prompt_template is not None)
    for key, prompt in findings.prompts.items():
        print(f"first prompt of {key}, as sent to the policy: {prompt!r}")
    result(
        f"data version {findings.version}; {len(sources)} sources readable; RL {figures['rl_training_gib']:.1f} GiB, "
        f"sampling {figures['rl_sampling_gib']:.1f} GiB of accelerator memory"
    )
    return findings.version, figures


def error_list(errors: list[str]) -> str:
    """Formats everything that is wrong as one message."""
    count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    return f"{count} to fix before this run can start:\n" + "\n".join(f"- {error}" for error in errors)


@dataclass
class Findings:
    """What preflight found out about a run's inputs."""

    errors: list[str] = field(default_factory=list)
    found: list[tuple[str, str]] = field(default_factory=list)  # recipe key and its state, of what is in order
    figures: dict[str, float] = field(default_factory=dict)  # estimates
    prompts: dict[str, str] = field(default_factory=dict)  # source -> its first problem as sent to the policy
    version: str = ""  # of the data


def inspect_inputs(
    base_policy: str,
    sources: dict[str, Source],
    size: RunSize | None,
    accelerator_memory_gib: float,
    grading: GradingSettings = _GRADING,
    prompt_template: str | None = None,
    evaluation: EvaluationSize | None = None,
    inference_memory_gib: float = 0,
) -> Findings:
    """Inspects everything that a run needs; see `preflight` for the arguments. Without a size, nothing is estimated."""
    findings = Findings()
    first, versions = _inspect_sources(sources, size, grading, findings)
    try:
        with inspected_policy(base_policy) as policy:
            versions += policy.version
            parameters = f"{policy.size.parameters / 1e6:,.1f} million parameters"
            findings.found.append(("base_policy", f"{base_policy}: {parameters}, context {policy.context}"))
            if size:
                engine = vllm_beside_trainer(policy.size, policy.context, size, accelerator_memory_gib)
                findings.figures = estimates(policy.size, policy.context, size, engine)
                findings.errors += oversized(findings.figures, size, policy.context, accelerator_memory_gib, engine)
            if evaluation:
                findings.errors += wrong_placement(policy.size, policy.context, evaluation, inference_memory_gib)
            findings.prompts = _prompts(Policy(policy.folder), first, prompt_template or "{problem}")
    except InputError as error:
        findings.errors.append(str(error))
    findings.version = hashlib.sha256(versions.encode()).hexdigest()[:16]
    return findings


def _inspect_sources(
    sources: dict[str, Source], size: RunSize | None, grading: GradingSettings, findings: Findings
) -> tuple[dict[str, RawProblem], str]:
    """Adds the sources to the findings; returns the first usable problem of each source, and all their versions."""
    first: dict[str, RawProblem] = {}
    versions = ""
    training, complete = set[str](), True  # texts of training problems, and whether these are all of them
    for key, source in sources.items():
        trains = key.startswith("data.train.")
        wanted = max(_SAMPLED_ROWS, size.prompts_per_step - len(training) if size and trains else 0)
        try:
            checked = check_source(key, source, wanted, grading)
        except InputError as error:
            findings.errors.append(str(error))
            complete = complete and not trains
            continue
        if trains:
            training |= {problem.text or "" for problem in checked.usable}
            complete = complete and checked.rows < wanted
        first[key] = checked.usable[0]
        versions += f"{key}\0{checked.version}\0"
        findings.found.append((key, f"{source.uri}: readable, {checked.graded}"))
    if size and complete and len(training) < size.prompts_per_step:
        findings.errors.append(
            f"data.train has {len(training)} usable problems, fewer than rl.prompts_per_step "
            f"({size.prompts_per_step}); lower rl.prompts_per_step or add problems"
        )
    return first, versions


def _prompts(policy: Policy, first: dict[str, RawProblem], template: str) -> dict[str, str]:
    prompts = {}
    for key, problem in first.items():
        try:
            prompts[key] = policy.rendered_prompt(prompt_of(problem, template))
        except (TemplateError, ValueError, TypeError) as error:
            raise InputError(
                f"{key}, {problem.row}: the policy's chat template rejects this conversation: {error}"
            ) from None
    return prompts


def _store_version(artifact_uri: str, cache_generation: int) -> str:
    """Changes with the artifacts' bucket and with the user's cache generation; empty for a local folder."""
    parts = urlsplit(artifact_uri)
    bucket = f"{parts.scheme}://{parts.netloc}?{parts.query}" if parts.netloc else ""  # a query may hold an endpoint
    if not bucket and not cache_generation:
        return ""
    return f"-{hashlib.sha256(f'{bucket} {cache_generation}'.encode()).hexdigest()[:6]}"


def _write_parameter(path: str, value: Any) -> None:
    """Writes a value where KFP reads an output parameter: text as it is, anything else as JSON."""
    with whole_file(path) as temporary:
        temporary.write_text(value if isinstance(value, str) else json.dumps(value))


def _write_page(path: str | Path, findings: Findings, in_template: bool) -> None:
    page.page(
        path,
        "Preflight",
        f"All checks passed; data version {findings.version}.",
        page.heading("Inputs"),
        page.table(["input", "state"], findings.found),
        page.heading("Prompts"),
        page.note(
            "The complete prompt of each source's first usable problem, as the chat template renders it"
            + ("." if in_template else "; data.prompt_template is applied later, in data preparation.")
        ),
        page.table(["source", "prompt"], [list(pair) for pair in findings.prompts.items()]),
        page.heading("Estimates"),
        page.table(
            ["estimate", "GiB"],
            [[name.removesuffix("_gib").replace("_", " "), value] for name, value in findings.figures.items()],
        ),
        page.note("Rough figures for one accelerator; see docs/plan.md."),
    )
