from pathlib import Path

import pytest

from components.shared.policy import Policy
from components.shared.sampling.base import Completion, Decoding, batches_of
from components.shared.sampling.transformers_engine import TransformersSampler

pytestmark = pytest.mark.slow
PROMPTS = ["Use 3 7 2 to make 13.", "Use 11 12 13 to make 36.", "Use 1 2 3 4 to make 10."]


def sample(policy: Path, n: int = 4, seed: int = 0, temperature: float = 1.0, batch_size: int = 5) -> list[Completion]:
    batches = batches_of(Policy(policy), PROMPTS, n, batch_size, Decoding(seed, 30, temperature))
    sampled = TransformersSampler(Policy(policy)).sample(batches)
    return [completion for _, completions in sampled for completion in completions]


def test_n_samples_of_every_prompt_that_end_where_they_say(tiny_policy: Path) -> None:
    completions = sample(tiny_policy)
    tokenizer = Policy(tiny_policy).tokenizer
    assert sorted((c.prompt_index, c.sample_index) for c in completions) == [(i, k) for i in range(3) for k in range(4)]
    for c in completions:
        assert (c.token_ids[-1] == tokenizer.eos_token_id) == (c.finish_reason == "stop")
        assert tokenizer.eos_token_id not in c.token_ids[:-1]
        assert tokenizer.decode(c.token_ids, skip_special_tokens=True) == c.text


def test_the_seed_decides(tiny_policy: Path) -> None:
    assert sample(tiny_policy, seed=1) == sample(tiny_policy, seed=1)
    assert sample(tiny_policy, seed=1) != sample(tiny_policy, seed=2)


def test_temperature_zero_is_greedy_and_padding_changes_nothing(tiny_policy: Path) -> None:
    import torch

    policy = Policy(tiny_policy)
    model = policy.load_model().eval()
    for c in sample(tiny_policy, n=1, temperature=0.0, batch_size=3):
        (ids,) = policy.prompt_token_ids([PROMPTS[c.prompt_index]])
        with torch.no_grad():
            for token in c.token_ids:
                assert model(torch.tensor([ids])).logits[0, -1].argmax() == token
                ids = [*ids, token]


def test_tokens_come_as_often_as_the_policy_says(tiny_policy: Path) -> None:
    import torch

    policy = Policy(tiny_policy)
    model = policy.load_model().eval()
    (ids,) = policy.prompt_token_ids(PROMPTS[:1])
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    batches = TransformersSampler(policy).sample(batches_of(policy, PROMPTS[:1], 4000, 500, Decoding(0, 1)))
    first = torch.tensor([c.token_ids[0] for _, completions in batches for c in completions])
    seen = torch.bincount(first, minlength=len(expected)) / 4000
    assert (seen - expected).abs().max() < 0.03
