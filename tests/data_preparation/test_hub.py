"""The base policy from a Hugging Face hub: the real client against a small server that speaks its API."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from safetensors.torch import load_file, save

from components.shared.policy.checks import check_policy

SHA = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = (
    "import sys\n"
    "from components.data_preparation.base_policy import bring_policy\n"
    "from components.shared.stage import stage\n"
    "with stage('data preparation'):\n"
    "    bring_policy(sys.argv[1], sys.argv[2])\n"
)
LOOK = (
    "import sys\n"
    "from components.preflight.base_policy import inspect_policy\n"
    "from components.shared.stage import stage\n"
    "with stage('preflight'):\n"
    "    print(inspect_policy(sys.argv[1])[0].parameters)\n"
)


@pytest.fixture
def hub(tiny_policy: Path) -> Iterator[str]:
    files = {file.name: file.read_bytes() for file in tiny_policy.iterdir()} | {"pytorch_model.bin": b"\x80"}
    lost = dict(load_file(tiny_policy / "model.safetensors"))
    del lost["model.norm.weight"]
    repositories = {"tiny": files, "lost": {**files, "model.safetensors": save(lost)}}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            own = repositories.get(parts[3 if parts[0] == "api" else 1] if len(parts) > 1 else "")
            if own is not None and parts[0] == "api" and parts[4:5] == ["tree"]:
                tree = [{"type": "file", "path": n, "size": len(c), "oid": SHA} for n, c in own.items()]
                content: bytes | None = json.dumps(tree).encode()
            elif own is not None and parts[0] == "api":
                found = {"id": f"me/{parts[3]}", "sha": SHA, "siblings": [{"rfilename": name} for name in own]}
                content = json.dumps(found).encode()
            else:
                content = None if own is None else own.get(parts[-1])
            self.send_response(200 if content is not None else 404)
            if content is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("X-Repo-Commit", SHA)
            self.send_header("ETag", f'"{hashlib.sha1(content or b"").hexdigest()}"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if body and content:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def bring(hub: str, uri: str, tmp_path: Path, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", program, uri, str(tmp_path / "policy")], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("uri", ["hf://me/tiny", f"hf://me/tiny@{SHA}"])
def test_a_policy_comes_whole_and_without_pickles(hub: str, uri: str, tmp_path: Path, tiny_policy: Path) -> None:
    done = bring(hub, uri, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    check_policy(tmp_path / "policy", "policy")
    assert {f.name for f in (tmp_path / "policy").iterdir()} == {f.name for f in tiny_policy.iterdir()}


def test_a_repository_that_is_not_there_is_a_message(hub: str, tmp_path: Path) -> None:
    done = bring(hub, "hf://me/other", tmp_path)
    assert done.returncode == 1
    assert "base policy 'hf://me/other' cannot be downloaded from the Hugging Face hub" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "policy").exists()


def test_preflight_reads_the_headers_of_the_weights_alone(hub: str, tmp_path: Path) -> None:
    done = bring(hub, "hf://me/tiny", tmp_path, LOOK)
    assert done.returncode == 0 and done.stdout.split()[-1].isdigit(), done.stdout + done.stderr
    done = bring(hub, "hf://me/lost", tmp_path, LOOK)
    assert done.returncode == 1
    assert (
        "base policy 'hf://me/lost'" in done.stdout and "missing are 1 of 38 tensors: model.norm.weight" in done.stdout
    )
