"""The grading worker: reads JSON lines (number, verifier, gold answer, answer), writes (number, verdict, reason,
explanation).

Started by `Grader`. It imports what verdicts need and then forks the process that judges, so that after an answer had
to be killed, the next fork is ready in milliseconds. The fork limits its own memory and time, so that an answer
which grows without bound ends this process and nothing else, even when the parent is gone. While it judges, it may
neither start processes nor open connections nor write files.

Pint, which only answers with units need, is loaded by the fork that meets the first one. It says so ("loading",
"loaded"), for that time is not the answer's.
"""

import json
import os
import resource
import signal
import sys
from typing import Any

# Audit events that judging never needs. The verifiers run no text; this is for the day one of them does.
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
    """Serves standard input until it closes; argument: the settings as JSON."""
    from components.shared.grading.settings import GradingSettings
    from components.shared.grading.verifiers import warm_up

    parent = os.getppid()
    settings = GradingSettings.model_validate_json(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not get between the verdicts
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warm_up("math", settings)
    while True:
        fork = os.fork()
        if fork == 0:
            _judge(settings, replies)
            os._exit(0)
        _, status = os.waitpid(fork, 0)
        if status == 0 or os.getppid() != parent:  # standard input was closed, or nobody is left to ask
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
        # The parent kills earlier; this ends a worker whose parent was killed. The default action needs no
        # Python code to run, so a long computation cannot hold it up.
        signal.setitimer(signal.ITIMER_REAL, settings.seconds + 5)
        judging = True
        try:
            correct, reason, explanation = verdict(verifier, gold, answer, settings)
        except MemoryError:
            os._exit(1)  # the next fork has all of its memory
        except Exception as error:  # whatever libraries and users' functions raise on text they cannot take
            correct, reason, explanation = False, f"{type(error).__name__}: {error}"[:200], ""
        judging = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps([number, correct, reason, explanation]) + "\n")


def _writes(arguments: tuple[Any, ...]) -> bool:
    """Whether an `open` event (path, mode, flags) is for writing."""
    _, mode, flags = arguments
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & _WRITING)


if __name__ == "__main__":
    main()
