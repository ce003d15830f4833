"""Benchmarks the sampling rate of evaluation against the plain libraries, with both engines: `make bench-vllm`.

Compares evaluation (samples, judges, writes every sample) with a bare script around vLLM's `LLM.generate` and one
around transformers' `generate`, with the same prompts and settings. Each side samples few and then many completions per
problem in its own process; the differences in tokens and seconds give its rate, without startup costs.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from stages import POLICY, write_problems

from components.shared.data.schema import BENCHMARK_ORDER
from components.shared.stage import write_json

MAX_TOKENS, BATCH = 40, 1024
CPU = {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 30, "max_model_len": 128, "max_num_seqs": BATCH}


def stage(work: Path, policy: Path, engine: str) -> Callable[[int], int]:
    """Returns a function that runs our evaluation stage with `n` samples per problem and returns the tokens."""
    from components.evaluation.evaluate import evaluate
    from components.evaluation.settings import EvaluationSettings
    from components.shared.grading import GradingSettings

    def run(n: int) -> int:
        settings = {"samples": n, "pass_at": [1], "max_completion_tokens": MAX_TOKENS, "sequences_per_batch": BATCH}
        figures = evaluate(
            policy,
            work / "benchmarks",
            EvaluationSettings.check({**settings, "engine": engine}, "eval"),
            GradingSettings(),
            name="base",
            kind="base",
            iteration=0,
            seed=1,
            samples_out=work / f"samples-{n}",
            evaluation_out=work / f"evaluation-{n}.json",
            page_out=work / f"evaluation-{n}.html",
        )
        return round(figures["dev_mean_tokens"] * len(prompts(work)) * n)

    return run


def prompts(work: Path) -> list[str]:
    """Returns the problems' prompts."""
    import pyarrow.parquet as pq

    texts: list[str] = pq.read_table(work / "benchmarks" / "dev.parquet")["prompt"].to_pylist()
    return texts


def rendered(work: Path, policy: Path, **options: Any) -> tuple[Any, Any]:
    """Returns the tokenizer, and the prompts rendered by its chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="left")
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts(work)]
    return tokenizer, tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True, **options)


def plain_vllm(work: Path, policy: Path) -> Callable[[int], int]:
    """Returns the same for plain vLLM: everything in one call, nothing judged or written."""
    import os

    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM, SamplingParams

    llm = LLM(str(policy), **CPU)
    ids = [{"prompt_token_ids": row} for row in rendered(work, policy)[1]["input_ids"]]

    def run(n: int) -> int:
        outputs = llm.generate(ids, SamplingParams(n=n, max_tokens=MAX_TOKENS, temperature=1.0), use_tqdm=False)
        return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)

    return run


def plain_transformers(work: Path, policy: Path) -> Callable[[int], int]:
    """Returns the same for plain transformers: equal batches, nothing judged or written."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy)
    tokenizer, batch = rendered(work, policy, padding=True, return_tensors="pt")

    def run(n: int) -> int:
        tokens = 0
        for rows in torch.arange(len(batch["input_ids"])).repeat_interleave(n).split(BATCH):
            part = {key: values[rows] for key, values in batch.items()}
            with torch.inference_mode():
                out = model.generate(**part, max_new_tokens=MAX_TOKENS, top_k=0, do_sample=True)
            completions = out[:, part["input_ids"].shape[1] :]
            tokenizer.batch_decode(completions, skip_special_tokens=True)
            tokens += int((completions != tokenizer.pad_token_id).sum())
        return tokens

    return run


SIDES: dict[str, Callable[[Path, Path], Callable[[int], int]]] = {
    "stage_vllm": lambda work, policy: stage(work, policy, "vllm"),
    "plain_vllm": plain_vllm,
    "stage_transformers": lambda work, policy: stage(work, policy, "transformers"),
    "plain_transformers": plain_transformers,
}


def rate(side: str, work: Path, policy: Path, samples: int) -> float:
    """Returns the tokens per second of one side."""
    run = SIDES[side](work, policy)
    run(1)
    points = []
    for n in (max(1, samples // 6), samples):
        began = time.monotonic()
        tokens = run(n)
        points.append((tokens, time.monotonic() - began))
    return (points[1][0] - points[0][0]) / (points[1][1] - points[0][1])


@click.command()
@click.option("--side", type=click.Choice(sorted(SIDES)), hidden=True)
@click.option("--work", type=click.Path(path_type=Path), hidden=True)
@click.option("--policy", default=POLICY, type=click.Path(exists=True, path_type=Path), help="Policy to sample from.")
@click.option("--engine", "engines", multiple=True, default=["vllm", "transformers"], help="Engine to benchmark.")
@click.option("--samples", default=96, show_default=True, help="Samples per problem.")
@click.option("--runs", default=1, show_default=True, help="Runs of each side.")
def main(side: str | None, work: Path | None, policy: Path, engines: tuple[str, ...], samples: int, runs: int) -> None:
    """Time evaluation and the plain libraries, and print tokens per second and their ratios."""
    if side and work:
        write_json(work / "rate.json", rate(side, work, policy, samples))
        return
    rates: dict[str, list[float]] = {f"{kind}_{engine}": [] for engine in engines for kind in ("stage", "plain")}
    for _ in range(runs):
        for name, values in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                write_problems(Path(folder) / "benchmarks" / "dev.parquet", 150, "dev")
                write_json(Path(folder) / "benchmarks" / BENCHMARK_ORDER, ["dev"])
                command = [sys.executable, __file__, "--side", name, "--work", folder, "--policy", str(policy)]
                command += ["--samples", str(samples)]
                subprocess.run(command, check=True, capture_output=True)
                values.append(json.loads((Path(folder) / "rate.json").read_text()))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for engine in engines:
        ours, plain = medians[f"stage_{engine}"], medians[f"plain_{engine}"]
        figures = {"tokens_per_second": round(ours), "plain": round(plain), "ratio": round(ours / plain, 3)}
        click.echo(json.dumps({"engine": engine, **figures, "runs": runs}))


if __name__ == "__main__":
    main()
