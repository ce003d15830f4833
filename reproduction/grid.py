"""The studies of docs/reproduction.md and the pipeline runs that each consists of."""

import dataclasses
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# RLoop as the paper has it, and what is varied: by name, the recipe keys that differ.
RLOOP, ALL_EXPERTS, NO_RL, FROM_EXPLORED, EASY_TOO = "", "all-experts", "no-rl", "from-explored", "easy-too"
TWO_EPOCHS = "two-epochs"
VARIANTS: dict[str, tuple[str, ...]] = {
    RLOOP: (),
    ALL_EXPERTS: ("experts_from=all", "rft_from=base"),
    NO_RL: ("rl.learning_rate=0.0",),
    FROM_EXPLORED: ("rft_from=explored",),
    EASY_TOO: ("filter.max_success_rate=1.0",),
    TWO_EPOCHS: ("rft.epochs=2.0",),
}


@dataclasses.dataclass(frozen=True)
class Study:
    """A task with its policies, and how methods are compared on it."""

    name: str
    recipe: str  # file in recipes/
    bases: dict[str, str]  # base policies by name; settings are chosen on the first
    development: str  # benchmark on which settings and checkpoints are chosen
    tests: tuple[str, ...]  # benchmarks that results are reported on
    k: int  # of pass@k
    steps: int  # RL steps per iteration
    budgets: tuple[int, ...]  # numbers of iterations after which the methods are compared
    learning_rates: tuple[float, ...]  # of RL; each runs with the first seed
    seeds: tuple[int, ...]  # of learning rates that were chosen at some budget
    further_iterations: int  # up to which the other seeds and base policies run, at the learning rates chosen so far
    variants: tuple[str, ...] = (RLOOP, ALL_EXPERTS, TWO_EPOCHS)  # whose learning rates are chosen
    ablation_iterations: int = 0  # after which the ablations are compared; 0: they are not run
    ablation_rate: float = 3e-4  # their learning rate of RL: the one at which RL changes the policy most
    changes: tuple[str, ...] = ()  # recipe overrides, for smaller runs


COUNTDOWN = Study(
    name="countdown",
    recipe="reproduction.yaml",
    bases={"A": "recipes/tiny/countdown", "B": "recipes/tiny/countdown-2"},
    development="dev",
    tests=("test", "four", "large"),
    k=32,
    steps=40,
    budgets=(3, 6, 12, 24),
    learning_rates=(3e-5, 1e-4, 3e-4),
    seeds=(1, 2, 3),
    further_iterations=12,
    ablation_iterations=12,
)
COUNTDOWN_WIDE = dataclasses.replace(
    COUNTDOWN,
    name="countdown-wide",
    bases={"A": COUNTDOWN.bases["A"]},
    budgets=(3, 6, 12),
    learning_rates=(1e-4, 3e-4),
    variants=(RLOOP, TWO_EPOCHS),
    ablation_iterations=0,
    changes=(
        "data.train=['countdown://train?numbers=3&low=1&high=9&count=560&seed=1', "
        "'countdown://train?numbers=4&low=1&high=9&count=1150&seed=1', "
        "'countdown://train?numbers=3&low=10&high=20&count=490&seed=1']",
    ),
)
SHORTEST_PATH = Study(
    name="shortest-path",
    recipe="shortest-path.yaml",
    bases={"A": "recipes/tiny/shortest_path"},
    development="dev",
    tests=("test", "large", "dense"),
    k=32,
    steps=40,
    budgets=(3, 6),
    learning_rates=(1e-4,),
    seeds=(1, 2, 3),
    further_iterations=6,
    variants=(RLOOP, TWO_EPOCHS),
)
SMOLLM2 = Study(
    name="smollm2",
    recipe="smollm2-135m.yaml",
    bases={"A": "build/smollm2-135m"},
    development="dev",
    tests=("test", "words"),
    k=8,
    steps=10,
    budgets=(3,),
    learning_rates=(2e-5,),
    seeds=(1, 2, 3),
    further_iterations=3,
    variants=(RLOOP,),
    changes=("eval.samples=8", "eval.pass_at=[1,4,8]"),
)
STUDIES = {study.name: study for study in (COUNTDOWN, COUNTDOWN_WIDE, SHORTEST_PATH, SMOLLM2)}
SHORT = dataclasses.replace(
    COUNTDOWN,
    name="countdown-short",
    bases={"A": COUNTDOWN.bases["A"]},
    budgets=(1, 3),
    learning_rates=(1e-4, 3e-4),
    seeds=(1,),
    further_iterations=3,
    variants=(RLOOP, ALL_EXPERTS),
    ablation_iterations=0,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One pipeline run; one of RLoop as the paper has it has vanilla RL beside it, for as many steps."""

    study: str
    base: str
    seed: int
    learning_rate: float
    variant: str = RLOOP

    @property
    def name(self) -> str:
        """Name of the run's results."""
        return f"{self.place}-{self.variant}" if self.variant else self.place

    @property
    def place(self) -> str:
        """Folder of the run: its variants share it, along with the first iteration's exploration."""
        return f"{self.study}-{self.base}-seed{self.seed}-lr{self.learning_rate:g}"

    def settings(self, study: Study) -> list[str]:
        """Returns the overrides of the study's recipe, without the number of iterations."""
        own = [f"base_policy={study.bases[self.base]}", f"seed={self.seed}", f"rl.learning_rate={self.learning_rate!r}"]
        vanilla = f"vanilla={str(self.variant == RLOOP).lower()}"
        return [*own, vanilla, *study.changes, *VARIANTS[self.variant]]


def tuning_runs(study: Study) -> dict[Run, int]:
    """Returns the runs that learning rates are chosen with, and their iterations: first seed and base policy."""
    base, seed = next(iter(study.bases)), study.seeds[0]
    pairs = [(variant, rate) for variant in study.variants for rate in study.learning_rates]
    return {Run(study.name, base, seed, rate, variant): max(study.budgets) for variant, rate in pairs}
