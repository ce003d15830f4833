"""Chooses which of a problem's solutions to keep: the most different ones, early ones first."""

from collections.abc import Sequence

from components.shared.data.ngrams import Sketch, similarity


def most_different(candidates: Sequence[tuple[int, Sketch]], count: int) -> list[int]:
    """Picks up to `count` candidates: the earliest one, then repeatedly the one least similar to those picked.

    Args:
        candidates: RL step and sketch of each.
        count: maximum number to pick.

    Returns:
        Their indices, in the order picked. Ties go to the earlier step, then to the lower index.
    """
    remaining = sorted(range(len(candidates)), key=lambda i: (candidates[i][0], i))
    if len(remaining) <= count:
        return remaining
    picked = [remaining.pop(0)]
    closest = {i: similarity(candidates[i][1], candidates[picked[0]][1]) for i in remaining}
    while len(picked) < count:
        chosen = min(remaining, key=lambda i: (closest[i], candidates[i][0], i))
        remaining.remove(chosen)
        picked.append(chosen)
        for i in remaining:
            closest[i] = max(closest[i], similarity(candidates[i][1], candidates[chosen][1]))
    return picked
