"""What several tests use: the tiny policy, problems, and rollouts of a made-up run."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from components.shared.data import countdown
from components.shared.data.schema import PROBLEMS, ROLLOUTS, write_table
from components.shared.grading import Grader, GradingSettings
from components.shared.policy import Policy
from launch.local.s3_server import S3Server

ROOT = Path(__file__).resolve().parent.parent
POLICY = ROOT / "recipes" / "tiny" / "countdown"


@pytest.fixture(scope="session")
def tiny_policy() -> Path:
    return POLICY


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return Policy(POLICY).tokenizer


class TestServer(S3Server):
    """The S3 server of the tests, and the bucket in it."""

    __test__ = False
    bucket = "artifacts"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """A real S3 server: SeaweedFS, as Kubeflow ships it."""
    server = TestServer(tmp_path_factory.mktemp("seaweedfs"), TestServer.bucket)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: TestServer, monkeypatch: pytest.MonkeyPatch) -> TestServer:
    """The same, with its address and keys in the environment."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="session")
def grader() -> Iterator[Grader]:
    with Grader(GradingSettings(seconds=2.0), workers=1) as shared:
        yield shared


@pytest.fixture
def problems_folder(tmp_path: Path) -> Path:
    """Sixteen Countdown training problems."""
    folder = tmp_path / "problems"
    write_table(
        folder / "problems.parquet",
        PROBLEMS,
        (
            {
                "problem_id": f"p{i}",
                "prompt": problem.text,
                "answer": problem.answer,
                "source": "train",
                "verifier": "countdown",
                "difficulty": None,
            }
            for i, problem in enumerate(countdown.generate("train", 3, 1, 9, 16, seed=1))
        ),
    )
    return folder


@pytest.fixture
def rollout(tokenizer: Any) -> Callable[..., dict[str, Any]]:
    """Makes one rollout; what a test does not say is filled in."""

    def make(problem_id: str = "p0", step: int = 0, completion: str = "1+2=3.", **changes: Any) -> dict[str, Any]:
        row = {
            "problem_id": problem_id,
            "iteration": 1,
            "step": step,
            "rank": 0,
            "group_id": f"1-{step}-{problem_id}",
            "sample_index": 0,
            "prompt": "Use 1 2 to make 3.",
            "completion": completion,
            "completion_ids": [*tokenizer.encode(completion), tokenizer.eos_token_id],
            "finish_reason": "stop",
            "reward": 1.0,
            "policy_id": "abc",
            "sampled_at": datetime(2026, 1, 1, tzinfo=UTC),
        }
        return row | changes

    return make


@pytest.fixture
def write_shard() -> Callable[..., Path]:
    """Writes a rollout shard as the recorder does."""

    def write(folder: Path, rows: list[dict[str, Any]], suffix: str = "") -> Path:
        path = folder / f"step-{rows[0]['step']:06d}-rank-{rows[0]['rank']:04d}{suffix}.parquet"
        write_table(path, ROLLOUTS, rows)
        return path

    return write


@pytest.fixture
def live_models(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models in training whose adapters exploration and RFT merge, in order."""
    from components.rft import refine
    from components.rl_exploration import explore, step_callback
    from components.shared.training.lora import merged

    models: list[Any] = []

    def merge(model: Any, initial_policy: Policy) -> Any:
        models.append(model)
        return merged(model, initial_policy)

    for module in (explore, step_callback, refine):
        monkeypatch.setattr(module, "merged", merge)
    return models
