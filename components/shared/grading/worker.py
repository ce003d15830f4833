"""The grading worker: reads a JSON line (verifier, answer, completion), writes its verdict as a JSON line.

Started and, past its time, killed by `Grader`. It limits its own memory, so that an answer which grows
without bound ends this process and nothing else.
"""

import json
import os
import resource
import sys


def main() -> None:
    """Serves standard input until it closes; the first argument is the memory limit in bytes."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not get between the verdicts
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    from components.shared.grading.verifiers import verdict

    for line in sys.stdin:
        verifier, answer, completion = json.loads(line)
        try:
            judged = verdict(verifier, answer, completion)
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            # What the libraries raise on text they cannot take: no right answer.
            print(f"graded as wrong: {type(error).__name__}: {error}"[:300], file=sys.stderr)
            judged = False
        replies.write(json.dumps(judged) + "\n")


if __name__ == "__main__":
    main()
