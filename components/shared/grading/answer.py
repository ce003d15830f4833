"""Finds the answer that a completion commits to: the last one it gives, if any.

Only the text after the reasoning (`</think>`) counts, if there is any. In order of precedence: the last `\\boxed{}`;
after `####`; in `<answer>` tags; after "the answer is"; the entire text if it is nothing but an answer; the end of the
last sentence. A number that just happens to come last in an unfinished text is not an answer. Different answers offered
side by side ("3 or maybe 4") are a hedge and do not count; a later sentence that corrects an earlier one is not a
hedge.

Linear-time string processing without parsing, so it runs in the caller's process.
"""

import re
from typing import NamedTuple


class Committed(NamedTuple):
    """The answer that a completion commits to, and how."""

    answer: str | None  # None: no answer
    reason: str  # answered | joined (several boxes side by side) | hedged | unfinished | no answer


_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BOX_WITHOUT_BRACES = re.compile(r"\\boxed(?:\s+([\w.]+)|(\d[\d.]*))")
_HEDGE = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|might|could|either|alternatively|not sure|unsure)\b|\bone of\b", re.IGNORECASE
)
_DECORATION = re.compile(r"\\[\[\]()]|\\(?:quad|qquad|text|mathrm|textbf)\b|\\[ ,;]|[$*{}~&\s]|\\\\")
_CONJUNCTION = re.compile(r"[,;]?(?:and|or|vs\.?|/|\||\\lor|\\vee)?[,;]?", re.IGNORECASE)
_ANSWER_IS = re.compile(
    r"(?:\*\*|\b)(?:final\s+|correct\s+)?answer\b\s*(?:\*\*)?\s*"
    r"(?:(?:is|are|would be|will be)\b\s*:?|[:=])(?:\*\*(?=\s))?",
    re.IGNORECASE,
)
_ANSWER_HEADING = re.compile(
    r"\*\*(?:final\s+)?answer\*\*\s*\n|^#+\s*(?:final\s+)?answer\s*\n", re.IGNORECASE | re.MULTILINE
)
# Other phrases that conclude a text, if nothing but an answer follows.
_CLOSING = re.compile(
    r"^\W*(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+|my\s+|our\s+)?(?:final\s+|correct\s+|overall\s+|end\s+)?"
    r"(?:answer|ans|result|solution|final|output|conclusion|value|total|outcome)\b\s*(?:\*\*)?\s*"
    r"(?:[:=]|[-\u2013\u2014](?=\s)|->|\bis\b:?|\bequals\b)(?:\*\*(?=\s))?",
    re.IGNORECASE | re.MULTILINE,
)
# Restates an answer after a box.
_STATED = re.compile(
    r"^\W*(?:the\s+)?(?:final\s+|correct\s+)?answer\b\s*(?:\*\*)?\s*[:=]\s*(?:\*\*)?\s*", re.IGNORECASE | re.MULTILINE
)
_DENIED = re.compile(
    r"\b(?:not|cannot|can't|never|neither|nor|whether|unknown|unclear|impossible|rather than|instead of|other than|"
    r"wrong|incorrect|excluded|unlikely|doubt|untrue|false that|nobody|no one|if it (?:is|were|was))\b"
    r"|n['\u2019]t\b|≠|!=|\\neq?(?![a-z])",
    re.IGNORECASE,
)
# Example: It is not true that the answer is 5.
_DENIED_CLAIM = re.compile(
    r"(?:\b(?:not (?:true|the case|clear|sure|certain|known|correct)|false|untrue|wrong|incorrect|doubt|cannot say|"
    r"unlikely|whether|nobody|no one)|n['\u2019]t (?:think|believe|know|say|true|the case))\b[^,;:.!?\n]*$",
    re.IGNORECASE,
)
_GUESS = re.compile(
    r"\b(?:perhaps|maybe|possibly|presumably)\b|\b(?:might|could|may)\s+(?:well\s+|also\s+)?be\b[\s$*(\\-]*\d",
    re.IGNORECASE,
)
_DENIED_BOX = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot)|n['\u2019]t)"
    r"(?:\s+(?:be|equal|equals|equal to|the|a|simply|just|really))*[\s$*(\[\\]*$",
    re.IGNORECASE,
)
_DENIALS = ("not", "never", "neither", "nor", "n't", "n\u2019t")
_CLAUSE = re.compile(r"[,;:]|\b(?:so|thus|hence|therefore|but|then|and)\b", re.IGNORECASE)
_CONCLUSION = re.compile(r"\b(?:so|thus|hence|therefore|but)\b", re.IGNORECASE)
_VERDICT = re.compile(
    r"\W*(yes|no|true|false)\b(?=\s*[,.;:!\u2014\u2013-]|\s+(?:because|since|as|for)\b|\W*$)", re.IGNORECASE
)
# Examples: (C) is correct; so A is the answer; I choose B.
_CHOSEN = re.compile(
    r"(?:^|[,;:]|\b(?i:so|thus|hence|therefore|option|choice|answer|statement))\s*\(?([A-J])\)?\s+is\s+"
    r"(?:the\s+)?(?:(?:correct|right|best)(?:\s+(?:answer|option|choice|one))?|answer)\W*$"
    r"|\b(?:choose|pick|select)\s+(?:option\s+)?\(?([A-J])\)?\W*$"
)
_IN_ALL = re.compile(r"\s+(?:in all|in total|altogether|all together|overall|in the end|total)$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_AFTERTHOUGHT = re.compile(
    r",?\s+(?:because|since|which|where|so that|as it|as they|i hope)\b.*"
    r"|,\s+(?!and\b|or\b)(?:in|not|so|as|altogether|and so|since|with|that)\b.*|\s\((?:[a-z]{2,}\s)+[a-z]{2,}\)$",
    re.IGNORECASE | re.DOTALL,
)
_LAST_WORDS = re.compile(
    r"(?:\b(?:is|are|be|equals|equal to|gives|get|obtain|yields)\b|=|\\approx|:)\s*([^=:]{1,200})$", re.IGNORECASE
)
_NUMBER = re.compile(r"-?\$?-?\d[\d,]*(?:\.\d+)?(?:/\d+)?\s?%?")
_RESULT = re.compile(r"=\s*(-?\$?-?\d[\d,]*(?:\.\d+)?)(?=\s+[A-Za-z]{3})")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z][A-Za-z']+")
_PROSE = re.compile(
    r"\b(?:the|is|are|was|so|thus|hence|we|it|i|get|let|me|therefore|then|which|that|this|have|has|there)\b",
    re.IGNORECASE,
)
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox|textit|operatorname)\s*\{[^{}]*\}")
# Bold text, but not the powers in 2**3 + 3**2.
_BOLD = re.compile(r"(?<![\w)\]}])\*\*(?=\S)([^*\n]+)(?<=\S)\*\*(?![\w(])")
_MARKUP = re.compile(r"^(?:\*\*|__|`|\$\$?(?!\d[\d,.]*$)|\\\(|\\\[)\s*|\s*(?:\*\*|__|`|(?<!\\)\$\$?|\\\)|\\\]|[.,;])$")
# Unboxed answers are looked for only in this many characters at the end.
_TAIL_CHARACTERS = 2000
_MAX_BARE_CHARACTERS = 1000
_MAX_BARE_WORDS = 3


def committed_answer(completion: str) -> Committed:
    """Returns the answer that a completion commits to, as written.

    Args:
        completion: the policy's text, without special tokens.

    Returns:
        The text of the answer, not yet parsed as mathematics, and how it was given.
    """
    if "</think>" in completion:
        before, after = completion.rsplit("</think>", 1)
        completion = after if after.strip() else before
    elif "<think>" in completion:
        return Committed(None, "unfinished")
    if "\\boxed" in completion or "\\fbox" in completion:
        return _boxed(completion)
    tail = completion.strip()[-_TAIL_CHARACTERS:]
    if "####" in tail:
        return _commit(tail.rsplit("####", 1)[1].strip().split("\n", 1)[0])
    if "<answer>" in tail:
        answer, closed, _ = tail.rsplit("<answer>", 1)[1].partition("</answer>")
        return _commit(answer) if closed else Committed(None, "unfinished")
    tail = tail.removesuffix("</answer>").rstrip()
    phrases = [*_ANSWER_IS.finditer(tail), *_ANSWER_HEADING.finditer(tail)]
    phrases += [match for match in _CLOSING.finditer(tail) if _is_bare(_after(tail, match.end()))]
    if phrases:
        last = max(phrases, key=lambda match: match.end())
        if _DENIED_CLAIM.search(tail[max(0, last.start() - 100) : last.start()]):
            return Committed(None, "no answer")
        return _commit(_after(tail, last.end()))
    if (line := _last_line(tail)) and _is_bare(line):
        return _commit(line)
    if len(completion.strip()) <= _MAX_BARE_CHARACTERS and _is_bare(tail):
        return _commit(tail)
    found = _last_sentence(tail)
    if found.answer is None and found.reason == "no answer" and (match := _VERDICT.match(completion)):
        return Committed(match[1], "answered")  # No, because ...
    return found


def _after(text: str, start: int) -> str:
    """Returns the answer that follows an announcing phrase, without trailing remarks."""
    return _AFTERTHOUGHT.sub("", _first_sentence(text[start:].strip()))


def _last_line(text: str) -> str | None:
    """Returns the last of several lines if it stands alone: not inside an environment and not part of a formula."""
    before, _, last = text.rstrip().rpartition("\n")
    last = last.strip()
    alone = before.strip() and re.search(r"\d|\\[a-z]", last) and last.count("{") == last.count("}")
    odd = (
        before.count("$$") % 2
        or before.count("\\[") > before.count("\\]")
        or before.count("\\begin") > before.count("\\end")
    )
    continued = re.search(r"(?:[=+*/<>&,(-]|\\\\)\s*$", before) or re.match(r"[=+*/<>&)]|\\\\|\\end|\\[\])]|-\s", last)
    return last if alone and not odd and not continued and not last.startswith("```") else None


def boxed_answers(text: str) -> list[str]:
    """Returns the contents of every closed, outermost `\\boxed{...}` in a text, in order."""
    return [content for _, _, content in _boxes(text)[0]]


def _boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """Returns (start, end, content) of the closed outermost boxes, and whether the last opened box was closed."""
    first = min((i for i in (text.find("\\boxed"), text.find("\\fbox")) if i >= 0), default=len(text))
    found: list[tuple[int, int, str]] = []
    opened: list[tuple[int, int] | None] = []  # start of a box and of its content; None for any other brace
    last_closed = True
    for token in _BOX_OR_BRACE.finditer(text, first):
        kind = token[0]
        if kind == "{":
            opened.append(None)
        elif kind == "}":
            if opened and (box := opened.pop()):
                start, begin = box
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, token.end(), text[begin : token.start()].strip()))
                last_closed = True
        elif kind[-1] == "{" and len(kind) > 2:
            opened.append((token.start(), token.end()))
            last_closed = False
    return found, last_closed


def _boxed(text: str) -> Committed:
    boxes, last_closed = _boxes(text)
    if not last_closed:
        return Committed(None, "unfinished")
    if not boxes:
        bare = ["".join(found) for found in _BOX_WITHOUT_BRACES.findall(text)]
        return Committed(bare[-1], "answered") if bare else Committed(None, "no answer")
    start, end, answer = boxes[-1]
    if "answer" in text[end:].lower():
        stated = [match.end() for match in _STATED.finditer(text, end)]
        if stated and _is_bare(_after(text, stated[-1])):
            return _commit(_after(text, stated[-1]))
    before = text[max(0, start - 60) : start]
    if not answer or (any(word in before for word in _DENIALS) and _DENIED_BOX.search(before)):
        return Committed(None, "no answer")
    if len({"".join(content.split()) for _, _, content in boxes}) == 1:
        return Committed(answer, "answered")
    # Boxes side by side are parts of one answer; earlier boxes are drafts, unless the last sentence hedges.
    parts = [answer]
    for (_, end, content), (start, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=False):
        between = text[end:start]
        if len(between) > 200 or not _CONJUNCTION.fullmatch(_DECORATION.sub("", between)):
            sentence = _SENTENCE_END.split(between)[-1]
            if content != parts[0] and _HEDGE.search(sentence):
                return Committed(None, "hedged")
            break
        if content not in parts:
            parts.insert(0, content)
    return Committed(", ".join(parts), "joined") if len(parts) > 1 else Committed(answer, "answered")


def _commit(answer: str) -> Committed:
    answer = _IN_ALL.sub("", _undecorated(_BOLD.sub(r"\1", answer)))
    if not answer:
        return Committed(None, "no answer")
    if re.search(r"\b(?:maybe|perhaps|possibly|not sure|unsure)\b|\?$", answer, re.IGNORECASE):
        return Committed(None, "hedged")
    return Committed(answer, "answered")


def _undecorated(text: str) -> str:
    """Strips surrounding markup and the final period."""
    while (bare := _MARKUP.sub("", text.strip())) != text:
        text = bare
    return text


def _first_sentence(text: str) -> str:
    for opening, closing in (("$$", "$$"), ("\\[", "\\]"), ("$", "$"), ("\\(", "\\)"), ("**", "**")):
        if text.startswith(opening) and (end := text.find(closing, len(opening))) > 0:
            rest = _SENTENCE_END.split(text[end + len(closing) :], maxsplit=1)[0]
            return text[: end + len(closing)] + ("" if len(rest) > 60 else rest)
    return _SENTENCE_END.split(text, maxsplit=1)[0]


def _is_bare(text: str) -> bool:
    """Whether a text is nothing but an answer: at most as many words as a unit or an `and` takes."""
    if re.fullmatch(r"\S+", text):
        return True
    plain = _TEXT.sub(" ", text)
    return len(_WORD.findall(plain)) <= _MAX_BARE_WORDS and not _PROSE.search(plain)


def _last_sentence(text: str) -> Committed:
    """Returns the answer that the last sentence of a text ends with, provided that the sentence is finished."""
    whole = text.rstrip()
    ended = whole.endswith((".", "!", "**", "$", "\\)", "\\]"))
    sentences = [s for s in _SENTENCE_END.split(whole) if s.strip(" *$.")]
    if not ended or not sentences:
        return Committed(None, "no answer")
    sentence = sentences[-1].strip()
    if len(sentences) == 1 and (match := _VERDICT.match(sentence)):
        return Committed(match[1], "answered")
    if match := _CHOSEN.search(sentence):
        return _commit(match[1] or match[2])
    clause = _CLAUSE.split(re.sub(r"(?<=\d),(?=\d)", "", sentence))[-1]
    if _DENIED.search(clause):
        return Committed(None, "no answer")  # example: it cannot be 5
    if _GUESS.search(clause):
        return Committed(None, "hedged")
    if match := re.search(r"\*\*([^*]{1,200})\*\*\W*$", sentence) or re.search(
        r"\$([^$]{1,300}\$(?:\s*(?:,?\s*(?:and|or)|,)\s*\$[^$]{1,300}\$){0,9})\W*$", sentence
    ):
        return _commit(match[1].rsplit("=", 1)[-1] if match[1].count("=") == 1 and len(match[1]) > 40 else match[1])
    # Examples: It is not 5, so it is 7. The statement is false because n is even.
    for part in (_CONCLUSION.split(sentence)[-1], sentence, _AFTERTHOUGHT.sub("", sentence)):
        if (match := _LAST_WORDS.search(part)) and _is_bare(match[1]):
            return _commit(match[1])
    results = _RESULT.findall(sentence)
    if results and _NUMBER.findall(sentence)[-1].strip() == results[-1]:
        return _commit(results[-1])  # Tom has 20 + 13 = 33 coins altogether in June and July.
    numbers = _NUMBER.findall(sentence)
    return _commit(numbers[0]) if len(numbers) == 1 else Committed(None, "no answer")
