"""The grading worker: reads a JSON line (verifier, answer, completion), writes its verdict as a JSON line.

Started and, past its time, killed by `Grader`. It limits its own memory and its own time, so that an answer
which grows without bound ends this process and nothing else, even when its parent is gone. While it judges, it may
neither start processes nor open connections nor write files.
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
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.",
    "socket.",
    "subprocess.",
    "ctypes.",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


def main() -> None:
    """Serves standard input until it closes; arguments: memory limit in bytes, seconds an answer may take."""
    memory, seconds = int(sys.argv[1]), float(sys.argv[2])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not get between the verdicts
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.dont_write_bytecode = True

    from components.shared.grading.verifiers import verdict, warm_up

    judging = False

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if judging and (event.startswith(_FORBIDDEN) or (event == "open" and _writes(arguments))):
            raise PermissionError(f"{event} while judging an answer")

    sys.addaudithook(guard)
    for line in sys.stdin:
        verifier, answer, completion = json.loads(line)
        if completion is None:
            warm_up(verifier)
            replies.write("true\n")
            continue
        # The parent kills earlier; this ends a worker whose parent was killed. The default action needs no
        # Python code to run, so a long computation cannot hold it up.
        signal.setitimer(signal.ITIMER_REAL, seconds + 5)
        judging = True
        try:
            judged = verdict(verifier, answer, completion)
        except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
            # What the libraries raise on text they cannot take: no right answer.
            print(f"graded as wrong: {type(error).__name__}: {error}"[:300], file=sys.stderr)
            judged = False
        judging = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(judged) + "\n")


def _writes(arguments: tuple[Any, ...]) -> bool:
    """Whether an `open` event (path, mode, flags) is for writing."""
    _, mode, flags = arguments
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & _WRITING)


if __name__ == "__main__":
    main()
