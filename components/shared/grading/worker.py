"""The grading worker: reads JSON lines (number, verifier, gold answer, answer) and writes JSON lines (number, verdict,
reason, explanation).

Started by `Grader`. It imports what the verifiers need, then forks the process that judges: after a fork had to be
killed, the next one is ready within milliseconds. The fork limits its own memory and time, so an answer that grows
without bound ends only that process, even if the parent is gone. While judging, it may not start processes, open
connections or write files.

Pint, which only answers with units need, is loaded by the first fork that sees one. The fork reports this ("loading",
"loaded"), because the time does not count against the answer.
"""

import json
import os
import resource
import signal
import sys
from typing import Any

# Audit events that judging never needs. No verifier runs text as code; this is a second line of defence.
_FORBIDDEN = (
    "os.exec",
    "os.fork",
    "os.kill",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.",
    "socket.",
    "subprocess.",
    "ctypes.",
)
_LOADING_SECONDS = 120.0
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


def main() -> None:
    """Serves requests from stdin until it closes; the command-line argument is the settings as JSON."""
    from components.shared.grading.settings import GradingSettings
    from components.shared.grading.verifiers import warm_up

    parent = os.getppid()
    settings = GradingSettings.model_validate_json(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries that print must not interfere with the replies
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warm_up("math", settings)
    while True:
        fork = os.fork()
        if fork == 0:
            _judge(settings, replies)
            os._exit(0)
        _, status = os.waitpid(fork, 0)
        if status == 0 or os.getppid() != parent:  # stdin was closed, or the parent is gone
            return


def _judge(settings: Any, replies: Any) -> None:
    from components.shared.errors import InputError
    from components.shared.grading.mathematics import units
    from components.shared.grading.verifiers import verdict, warm_up

    memory = settings.memory_mib << 20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    judging = False

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if judging and (event.startswith(_FORBIDDEN) or (event == "open" and _writes(arguments))):
            raise PermissionError(f"{event} while judging an answer")

    def loading(begins: bool) -> None:
        replies.write(json.dumps(["loading" if begins else "loaded", 0]) + "\n")
        signal.setitimer(signal.ITIMER_REAL, _LOADING_SECONDS if begins else settings.seconds + 5)

    sys.addaudithook(guard)
    units.report_loading(loading)
    replies.write(json.dumps(["judging", os.getpid()]) + "\n")
    for line in sys.stdin.buffer:
        number, verifier, gold, answer = json.loads(line)
        if gold is None:
            try:
                warm_up(verifier, settings)
                replies.write(json.dumps([number, True, ""]) + "\n")
            except (InputError, ImportError, AttributeError) as error:
                replies.write(json.dumps([number, False, str(error)]) + "\n")
            continue
        # The parent kills the fork earlier; this timer ends a fork whose parent was killed. The signal's default
        # action runs no Python code, so a long computation cannot delay it.
        signal.setitimer(signal.ITIMER_REAL, settings.seconds + 5)
        judging = True
        try:
            correct, reason, explanation = verdict(verifier, gold, answer, settings)
        except MemoryError:
            os._exit(1)  # the next fork starts with all its memory
        except Exception as error:  # libraries and users' functions may raise anything on text they cannot handle
            correct, reason, explanation = False, f"{type(error).__name__}: {error}"[:200], ""
        judging = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps([number, correct, reason, explanation]) + "\n")


def _writes(arguments: tuple[Any, ...]) -> bool:
    """Whether an `open` audit event (path, mode, flags) opens a file for writing."""
    _, mode, flags = arguments
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & _WRITING)


if __name__ == "__main__":
    main()
