"""The sampling engine in TRL's configuration, and servers that cannot be used."""

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from components.rl_exploration import vllm_server
from components.rl_exploration.settings import ExplorationSettings
from components.rl_exploration.trainer_config import engine_arguments
from components.shared.errors import InputError


@pytest.fixture
def server() -> Iterator[str]:
    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def settings(**changes: Any) -> ExplorationSettings:
    return ExplorationSettings.check({"steps": 1, **changes}, "rl")


def test_trl_takes_what_it_is_told_of_vllm() -> None:
    from trl import GRPOConfig

    beside = engine_arguments("vllm", settings(gpu_memory_utilization=0.4, sleep_mode=True), 64, {2, 1})
    apart = engine_arguments("vllm", settings(vllm_server="http://vllm:8000"), 64, {2})
    for arguments, mode in ((beside, "colocate"), (apart, "server")):
        taken = GRPOConfig(output_dir="unused", use_cpu=True, bf16=False, report_to="none", **arguments)
        assert taken.use_vllm and taken.vllm_mode == mode
    assert taken.vllm_server_base_url == "http://vllm:8000"
    assert beside["generation_kwargs"] == {"stop_token_ids": [1, 2]}
    assert engine_arguments("transformers", settings(), 64, {2}) == {}


def test_a_server_is_asked_before_anything_starts(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="gets its weights from a GPU, and this stage has no GPU"):
        vllm_server.check_server(server, "vllm")
    monkeypatch.setattr(vllm_server, "accelerator", lambda: "cuda")
    vllm_server.check_server(server, "vllm")
    with pytest.raises(InputError, match=r"no healthy server answers at .*/elsewhere \(HTTP Error 404"):
        vllm_server.check_server(f"{server}/elsewhere", "vllm")
    with pytest.raises(InputError, match="no healthy server answers at http://127.0.0.1:9"):
        vllm_server.check_server("http://127.0.0.1:9", "vllm")
    with pytest.raises(InputError, match="has no effect with rl.engine: transformers"):
        settings(vllm_server=server, engine="transformers")
