"""That vLLM samples as transformers does: from the same distribution, with the same ends, batch by batch."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from components.shared.data import countdown
from components.shared.policy import Policy
from components.shared.sampling.base import Batch, Completion, Decoding, Sampler, batches_of
from components.shared.sampling.engines import SamplerSettings
from tests.conftest import POLICY

pytestmark = pytest.mark.vllm
PROBLEMS = list(countdown.generate("dev", 3, 1, 9, 40, seed=1))
PROMPTS = [problem.text for problem in PROBLEMS]
SAMPLES = 64
MAX_TOKENS = 40
PERMUTATIONS = 999  # the least p-value is 1 / (1 + PERMUTATIONS)


@pytest.fixture(scope="module")
def vllm_sampler() -> Iterator[Sampler]:
    sampler = SamplerSettings(POLICY, "vllm", batch_size=256, length=128).open()
    yield sampler
    sampler.close()


@pytest.fixture(scope="module")
def transformers_sampler() -> Sampler:
    return SamplerSettings(POLICY, "transformers", batch_size=256).open()


def sample(
    sampler: Sampler,
    n: int = SAMPLES,
    seed: int = 1,
    *,
    max_tokens: int = MAX_TOKENS,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[Completion]:
    batches = batches_of(Policy(POLICY), PROMPTS, n, 256, Decoding(seed, max_tokens, temperature, top_p))
    completions = [completion for _, sampled in sampler.sample(batches) for completion in sampled]
    return sorted(completions, key=lambda c: (c.prompt_index, c.sample_index))


def surprisal(completions: list[Completion]) -> list[float]:
    """How unlikely the policy finds each completion after its prompt, in nats."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    policy = Policy(POLICY)
    model = policy.load_model().eval()
    prompts = [torch.tensor(ids) for ids in policy.prompt_token_ids(PROMPTS)]
    rows = [torch.cat([prompts[c.prompt_index], torch.tensor(c.token_ids)]) for c in completions]
    ids = pad_sequence(rows, batch_first=True)  # on the right, where it changes nothing before it
    with torch.inference_mode():
        chosen = model(ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[:, :, 0]
    ends = [len(row) - 1 for row in rows]
    return [
        -values[end - len(c.token_ids) : end].sum().item()
        for values, end, c in zip(chosen, ends, completions, strict=True)
    ]


def features(completions: list[Completion]) -> np.ndarray:
    """What is compared of each completion: its end, its success, how unlikely it is, how often it has each token."""
    return np.column_stack(
        [
            [c.finish_reason == "stop" for c in completions],
            [countdown.score(PROBLEMS[c.prompt_index].answer, c.text) for c in completions],
            surprisal(completions),
            [np.bincount(c.token_ids, minlength=266) for c in completions],
        ]
    )


def p_value(some: list[Completion], others: list[Completion]) -> float:
    """Of the hypothesis that both are samples of the same distribution: a permutation test over each prompt's samples.

    Under it, a prompt's samples may change sides without changing anything, so that a p-value of at most x comes with
    a probability of at most x. The statistic is the largest difference that a feature's mean has between the sides,
    in its standard deviations within prompts.
    """
    both = np.stack([features(side).reshape(len(PROMPTS), SAMPLES, -1) for side in (some, others)], axis=1)
    both = both.reshape(len(PROMPTS), 2 * SAMPLES, -1)
    both -= both.mean(axis=1, keepdims=True)
    deviation = both.std(axis=(0, 1))
    scaled = (both[:, :, deviation > 0] / deviation[deviation > 0]).reshape(len(PROMPTS) * 2 * SAMPLES, -1)
    sides = np.tile(np.repeat([1.0, -1.0], SAMPLES), (len(PROMPTS), 1))
    generator = np.random.default_rng(0)
    orders = [sides, *(generator.permuted(sides, axis=1) for _ in range(PERMUTATIONS))]
    statistics = np.abs(np.reshape(orders, (len(orders), -1)) @ scaled).max(axis=1)
    return float((statistics >= statistics[0]).mean())


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8)])
def test_both_engines_sample_from_the_same_distribution(
    vllm_sampler: Sampler, transformers_sampler: Sampler, temperature: float, top_p: float
) -> None:
    # With these seeds the p-values are what they are; with others, one in a thousand would be a false alarm.
    ours = sample(vllm_sampler, temperature=temperature, top_p=top_p)
    theirs = sample(transformers_sampler, temperature=temperature, top_p=top_p)
    assert p_value(ours, theirs) > 0.001


@pytest.mark.parametrize(("temperature", "top_p"), [(1.1, 1.0), (0.9, 1.0), (1.0, 0.95)])
def test_other_settings_of_sampling_are_noticed(
    vllm_sampler: Sampler, transformers_sampler: Sampler, temperature: float, top_p: float
) -> None:
    ours = sample(vllm_sampler, temperature=temperature, top_p=top_p)
    assert p_value(ours, sample(transformers_sampler)) <= 0.001


def test_temperature_zero_gives_the_same_tokens(vllm_sampler: Sampler, transformers_sampler: Sampler) -> None:
    ours, theirs = (sample(sampler, 1, temperature=0.0) for sampler in (vllm_sampler, transformers_sampler))
    same = sum(a.token_ids == b.token_ids for a, b in zip(ours, theirs, strict=True))
    assert same >= 39  # of 40: where two tokens are as likely, the last bit decides


def test_completions_end_where_they_say(vllm_sampler: Sampler) -> None:
    completions = sample(vllm_sampler, 4, max_tokens=14)
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for c in completions:
        assert (c.token_ids[-1] == 1) == (c.finish_reason == "stop") and 1 not in c.token_ids[:-1]
        assert len(c.token_ids) == 14 or c.finish_reason == "stop"
        assert "<" not in c.text  # no special token


def test_batches_are_the_same_ones_wherever_sampling_is_taken_up_and_in_whatever_parts(
    vllm_sampler: Sampler, transformers_sampler: Sampler
) -> None:
    def batches(seed: int = 1) -> list[Batch]:
        return batches_of(Policy(POLICY), PROMPTS, 20, 256, Decoding(seed, MAX_TOKENS))

    def sampled(sampler: Sampler, given: Iterable[Batch]) -> dict[tuple[str, int], list[Completion]]:
        return {(batch.name, batch.start): completions for batch, completions in sampler.sample(given)}

    whole = sampled(vllm_sampler, batches())
    assert sorted(map(len, whole.values())) == [32, 256, 256, 256]
    for skip in (1, 3, 4):
        left = [(batch.name, batch.start) for batch in batches()[skip:]]
        assert sampled(vllm_sampler, batches()[skip:]) == {key: whole[key] for key in left}
    interrupted = vllm_sampler.sample(batches(seed=2))
    assert next(interrupted)[1] not in whole.values()
    interrupted.close()  # type: ignore[attr-defined]  # what had been asked for is given up and in nobody's way
    parts = sampled(vllm_sampler, (part for batch in batches() for part in batch.parts(16)))
    assert [c for key in sorted(parts) for c in parts[key]] == [c for key in sorted(whole) for c in whole[key]]
    places = [
        {key: [(c.prompt_index, c.sample_index) for c in completions] for key, completions in side.items()}
        for side in (whole, sampled(transformers_sampler, batches()))
    ]
    assert places[0] == places[1]


def test_what_is_generated_beside_a_sequence_changes_nothing_and_a_checkpoints_settings_neither(
    vllm_sampler: Sampler, tmp_path: Path
) -> None:
    expected = sample(vllm_sampler, 4)
    vllm_sampler.close()  # a process has one engine at a time; this test is the last to need the shared one
    policy = tmp_path / "policy"
    shutil.copytree(POLICY, policy)
    own = json.loads((policy / "generation_config.json").read_text())
    own |= {"repetition_penalty": 3.0, "temperature": 0.1, "top_k": 1, "top_p": 0.1, "max_new_tokens": 3}
    (policy / "generation_config.json").write_text(json.dumps(own))
    other = SamplerSettings(policy, "vllm", batch_size=5000, length=128).open()
    assert sample(other, 4) == expected
    other.close()
