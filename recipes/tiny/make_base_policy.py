"""Trains the tiny base policies of the laptop recipes: `python recipes/tiny/make_base_policy.py TASK`.

TASK is `countdown` (recipes/laptop.yaml), `arithmetic` (recipes/arithmetic.yaml) or `shortest_path`
(recipes/shortest-path.yaml). A Qwen2 model with about 0.4M parameters learns from demonstrations that are
often wrong on purpose, so that the policy knows the form of a solution and sometimes finds a right one:
the state of a base model before RL.
Seeded; takes several minutes on two CPU cores. The results are committed beside this file, so run it
only to change them (`make base-policy`).

countdown: half of the demonstrations ignore the target and a tenth have a wrong value. They come from
the `pretrain` split and are of three kinds: 3 numbers from 1 to 9, 4 numbers from 1 to 9, 3 numbers
from 10 to 20; training, development and test problems are in other splits.

arithmetic: two- to four-term sums and differences, worked from left to right with a boxed answer; a
quarter of the values are slightly off.

shortest_path: reasoning-gym's shortest paths through grids of three kinds: 5x5 with 30 % of the cells
blocked, 6x6 with 30 %, 5x5 with 45 %. Half of the demonstrations walk through blocked cells, and a third
have a wrong move.
"""

import json
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from components.shared.data import countdown

HERE = Path(__file__).resolve().parent
# One line per message, the answer on the next line; the assistant's messages end with the EOS token.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if message['role'] != 'assistant' and (not loop.last or add_generation_prompt) %}{{ '\n' }}{% endif %}"
    "{% endfor %}"
)
EOS, PAD = "<|end|>", "<|pad|>"
COUNTDOWN_KINDS = ((3, 1, 9), (4, 1, 9), (3, 10, 20))  # numbers, low, high
GRID_KINDS = ((5, 0.3), (6, 0.3), (5, 0.45))  # rows and columns, share of blocked cells
MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
# Far from the seeds of the recipe's problems: reasoning-gym's problem i with seed s is its problem 0 with seed s + i.
GRID_SEED = 1_000_000_000


def countdown_demonstrations(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yields prompts and completions: half ignore the target, a tenth have a wrong value."""
    rng = random.Random(seed)
    made = 0
    while made < count:
        size, low, high = COUNTDOWN_KINDS[rng.randrange(len(COUNTDOWN_KINDS))]
        numbers = tuple(rng.randint(low, high) for _ in range(size))
        steps, other = countdown.random_steps(numbers, rng), countdown.random_steps(numbers, rng)
        if not steps or not other:
            continue
        target = (other if rng.random() < 0.5 else steps)[-1][3]
        problem = countdown.Problem(numbers, target)
        if problem.split != "pretrain":
            continue
        if rng.random() < 0.1:
            wrong = rng.randrange(len(steps))
            left, operator, right, value = steps[wrong]
            steps[wrong] = (left, operator, right, max(0, value + rng.choice((-10, -2, -1, 1, 2, 10))))
        yield problem.text, ",".join(f"{a}{o}{b}={v}" for a, o, b, v in steps) + "."
        made += 1


def arithmetic_demonstrations(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yields prompts and completions, phrased like reasoning-gym's `chain_sum`."""
    rng = random.Random(seed)
    for _ in range(count):
        digits = rng.choice((1, 2, 2))
        low, high = (0, 9) if digits == 1 else (10, 99)
        terms = [rng.randint(low, high) for _ in range(rng.choice((2, 3, 3, 4)))]
        operators = [rng.choice("+-") for _ in terms[1:]]
        expression = str(terms[0]) + "".join(f" {o} {t}" for o, t in zip(operators, terms[1:], strict=True))
        value, steps = terms[0], []
        for operator, term in zip(operators, terms[1:], strict=True):
            right = countdown.apply(value, operator, term)
            if rng.random() < 0.25:
                right += rng.choice((-10, -2, -1, 1, 2, 10))
            steps.append(f"{value}{operator}{term}={right}")
            value = right
        prompt = f"State the final answer to the following arithmetic problem: {expression} ="
        yield prompt, f"{', '.join(steps)}. \\boxed{{{value}}}"


def shortest_path_demonstrations(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yields prompts and completions: half walk through blocked cells, a third have a wrong move."""
    import reasoning_gym

    rng = random.Random(seed)
    kinds = [
        reasoning_gym.create_dataset(
            "shortest_path",
            min_rows=size,
            max_rows=size,
            min_cols=size,
            max_cols=size,
            p_blocked=blocked,
            size=count,
            seed=GRID_SEED * (1 + seed),
        )
        for size, blocked in GRID_KINDS
    ]
    for number in range(count):
        problem = rng.choice(kinds)[number]
        through = "*O#X" if rng.random() < 0.5 else "*O#"
        moves = random_shortest_path(problem["metadata"]["matrix"], through, rng)
        if rng.random() < 1 / 3:
            moves[rng.randrange(len(moves))] = rng.choice(list(MOVES))
        yield problem["question"], " ".join(moves)


def random_shortest_path(grid: list[list[str]], through: str, rng: random.Random) -> list[str]:
    """Returns the moves of a shortest path from * to # through cells of the given types, or `infeasible`."""
    cells = {(r, c): cell for r, row in enumerate(grid) for c, cell in enumerate(row)}
    start, end = (next(at for at, cell in cells.items() if cell == mark) for mark in "*#")
    left, reached = {end: 0}, [end]  # moves left to the end, by cell
    for r, c in reached:
        for down, right in MOVES.values():
            at = (r - down, c - right)
            if cells.get(at, "outside") in through and at not in left:
                left[at] = left[r, c] + 1
                reached.append(at)
    if start not in left:
        return ["infeasible"]
    moves, (r, c) = [], start
    while (r, c) != end:
        closer = [
            name for name, (down, right) in MOVES.items() if left.get((r + down, c + right), len(cells)) < left[r, c]
        ]
        moves.append(rng.choice(closer))
        r, c = r + MOVES[moves[-1]][0], c + MOVES[moves[-1]][1]
    return moves


# demonstrations, layers, optimiser steps of 256 demonstrations
TASKS = {
    "countdown": (countdown_demonstrations, 3, 1500),
    "arithmetic": (arithmetic_demonstrations, 2, 1200),
    "shortest_path": (shortest_path_demonstrations, 3, 1500),
}


def common_beginning(texts: Iterable[str]) -> str:
    """Returns what all texts begin with."""
    texts = sorted(texts)
    first, last = texts[0], texts[-1]
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def make_tokenizer(demonstrations: list[tuple[str, str]]) -> Any:
    """Trains a small Qwen2 tokenizer: byte-level BPE, one token per digit, can encode any text.

    Instructions that all prompts begin with become one token: reading them again and again teaches nothing.

    It has the class that AutoTokenizer picks for a Qwen2 model. With another class, the loaded tokenizer
    would differ from the saved one: AutoTokenizer silently uses Qwen2's text splitting regardless.
    """
    from tokenizers import pre_tokenizers, trainers
    from transformers import AddedToken, Qwen2Tokenizer

    beginning = common_beginning(prompt for prompt, _ in demonstrations)
    if len(beginning) < 100:  # no instructions
        beginning = ""
    texts = (f"{prompt.removeprefix(beginning)} {completion}" for prompt, completion in demonstrations)
    core = Qwen2Tokenizer(unk_token=None, eos_token=EOS, pad_token=PAD).backend_tokenizer
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=[PAD, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    model = json.loads(core.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        unk_token=None,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
    )
    if beginning:
        tokenizer.add_tokens([AddedToken(beginning, normalized=False)])
    return tokenizer


def make_model(tokenizer: Any, layers: int) -> Any:
    """Creates a small Qwen2 model with random weights."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    # Head size 32 is the smallest that vLLM's CPU build supports.
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=layers,
            num_attention_heads=3,
            num_key_value_heads=3,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=1.0
    )
    return model


@click.command()
@click.argument("task", type=click.Choice(sorted(TASKS)))
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the policy (default: recipes/tiny/TASK).")
@click.option("--seed", default=1, show_default=True, help="Seed of the demonstrations and the initial weights.")
@click.option("--steps", type=int, help="Optimiser steps of 256 demonstrations (default: the task's).")
def main(task: str, output: Path | None, seed: int, steps: int | None) -> None:
    """Pre-train the tiny base policy of TASK on demonstrations that are often wrong on purpose."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    demonstrations, layers, default_steps = TASKS[task]
    steps = steps or default_steps
    output = output or HERE / task
    tokenizer = make_tokenizer(list(demonstrations(20_000, seed)))

    def examples() -> Iterator[dict[str, list[int]]]:
        for prompt, completion in demonstrations(steps * 256, seed):
            prompt_ids = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
            )["input_ids"]
            completion_ids = [*tokenizer.encode(completion), tokenizer.eos_token_id]
            yield {"input_ids": prompt_ids + completion_ids, "labels": [-100] * len(prompt_ids) + completion_ids}

    torch.manual_seed(seed)
    model = make_model(tokenizer, layers)
    work = output.with_name(output.name + ".tmp")
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(work / "trainer"),
            max_steps=steps,
            per_device_train_batch_size=256,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            warmup_steps=50,
            weight_decay=0.01,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            max_length=None,
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            seed=seed,
        ),
        train_dataset=Dataset.from_list(list(examples())),
        processing_class=tokenizer,
    )
    trainer.train()
    shutil.rmtree(work)
    model.config.use_cache = True  # the trainer turned it off
    model.save_pretrained(work)
    tokenizer.save_pretrained(work)
    shutil.rmtree(output, ignore_errors=True)
    work.rename(output)
    weights = sum(p.numel() for p in model.parameters())
    click.echo(json.dumps({"policy": str(output), "parameters": weights, "steps": steps, "seed": seed}))


if __name__ == "__main__":
    main()
