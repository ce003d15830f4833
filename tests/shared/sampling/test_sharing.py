"""How batches are shared out among replicas, played with replicas that differ in speed."""

from collections import Counter

from components.shared.sampling.base import Batch, Decoding
from components.shared.sampling.sharing import WorkQueue


def batch(name: str, sequences: int, max_tokens: int = 100) -> Batch:
    prompts = range(sequences)
    return Batch(name, 0, [(i, 0) for i in prompts], {i: [i] for i in prompts}, Decoding(1, max_tokens))


def played(shared: WorkQueue[str], seconds: dict[int, float]) -> tuple[Counter[int], list[float]]:
    """Lets each replica take the next item when it has finished the last; the sequences of each, and when each ends.

    Args:
        shared: the queue.
        seconds: time that each replica takes per sequence.
    """
    busy_until, done = dict.fromkeys(seconds, 0.0), Counter[int]()
    active = set(seconds)
    while active:
        replica = min(active, key=lambda number: busy_until[number])
        item = shared.take(replica, same_policy=False)
        if item is None:
            active.discard(replica)
        else:
            busy_until[replica] += seconds[replica] * len(item[1].sequences)
            done[replica] += len(item[1].sequences)
    return done, sorted(busy_until.values())


def test_one_long_tail_does_not_leave_the_others_idle() -> None:
    work = {"policy": [batch("dev", 512), batch("test", 300)]}
    done, ends = played(WorkQueue(work, whole=False), {0: 5.0, 1: 1.0, 2: 1.0, 3: 1.0})
    assert sum(done.values()) == 812 and done[0] < 100
    assert ends[-1] - ends[0] <= 5.0 * 16, "they end within one part of each other, of the slowest"
    # A fixed split in four would take the slow one 5 x 203 seconds.
    assert ends[-1] < 5.0 * 203 / 3


def test_every_sequence_is_taken_once_and_of_each_prompt_the_tokens_go_with_it() -> None:
    shared = WorkQueue({"policy": [batch("dev", 40), batch("test", 5)]}, whole=False)
    assert shared.items == 4
    taken = [item[1] for _ in range(4) if (item := shared.take(0, same_policy=False))]
    assert shared.take(0, same_policy=False) is None
    places = [(part.name, part.start + i) for part in taken for i in range(len(part.sequences))]
    assert sorted(places) == [("dev", i) for i in range(40)] + [("test", i) for i in range(5)]
    for part in taken:
        assert part.prompt_ids == {i: [i] for i, _ in part.sequences}


def test_whole_batches_are_taken_longest_first() -> None:
    batches = [batch("short", 64), batch("rest", 10, max_tokens=500), batch("long", 64, max_tokens=500)]
    shared = WorkQueue({"policy": batches}, whole=True)
    taken = [item[1] for _ in batches if (item := shared.take(0, same_policy=False))]
    assert [(each.name, len(each.sequences)) for each in taken] == [("long", 64), ("rest", 10), ("short", 64)]


def test_replicas_spread_over_the_policies_before_they_help_each_other() -> None:
    shared = WorkQueue({f"step-{n}": [batch(f"step-{n}", 64)] for n in (1, 2, 3)}, whole=False)
    first = [shared.take(replica, same_policy=False) for replica in range(4)]
    assert [item[0] for item in first if item] == ["step-1", "step-2", "step-3", "step-1"]
    left = [shared.take(1, same_policy=True) for _ in range(4)]
    assert [item and item[0] for item in left] == ["step-2"] * 3 + [None], "it is asked for another policy only then"
    helped = shared.take(1, same_policy=False)
    assert helped and helped[0] == "step-3", "which has three parts left for one replica"
    done, _ = played(shared, dict.fromkeys(range(4), 1.0))
    assert sum(done.values()) == 3 * 64 - 16 * 8
