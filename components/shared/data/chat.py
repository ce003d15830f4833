"""Prompts that are conversations: with a system message, examples, several turns.

A problem's prompt is the user's message, or a conversation as canonical JSON: a list of objects with role and content.
"""

import ast
import json
from collections.abc import Sequence
from typing import Any

Message = dict[str, str]
# How data sets call the parts of a message, and who speaks.
_ROLE, _CONTENT = ("role", "from"), ("content", "value")
_SPEAKERS = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


class NotText(ValueError):
    """A message holds what is no text, such as an image."""


def messages_of(value: Any) -> list[Message] | None:
    """A column's value as a conversation; None if it is none.

    Args:
        value: a list of messages, or one as JSON text.

    Raises:
        NotText: a message holds what is no text.
    """
    if isinstance(value, str) and value.lstrip().startswith("[") and any(f"{name}" in value for name in _ROLE):
        value = _parsed(value)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    messages = []
    for entry in value:
        if not isinstance(entry, dict):
            return None
        role = next((entry[name] for name in _ROLE if isinstance(entry.get(name), str)), None)
        name = next((name for name in _CONTENT if name in entry), None)
        if role is None or name is None:
            return None
        messages.append({"role": _SPEAKERS.get(role.lower(), role.lower()), "content": _text(entry[name])})
    return messages


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:  # as Python prints a list, which is how pandas writes one to CSV
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text") or "") for part in content)
    raise NotText("a message holds what is no text")


def asked(messages: list[Message]) -> list[Message]:
    """A conversation up to its last question: what the assistant says to that would give the solution away."""
    last = max((number for number, message in enumerate(messages) if message["role"] == "user"), default=-1)
    return [
        {**message, "content": message["content"].strip()}
        for message in messages[: last + 1]
        if message["content"].strip()
    ]


def as_prompt(messages: list[Message]) -> str:
    """A conversation as a problem's prompt: the user's message alone where there is no other."""
    if len(messages) == 1 and messages[0]["role"] == "user" and conversation(messages[0]["content"]) == messages:
        return messages[0]["content"]
    return json.dumps([{"role": m["role"], "content": m["content"]} for m in messages], ensure_ascii=False)


def conversation(prompt: str) -> list[Message]:
    """A problem's prompt as the chat that the template renders."""
    if prompt.startswith('[{"role": '):
        try:
            messages = json.loads(prompt)
        except ValueError:
            messages = None
        if isinstance(messages, list) and all(
            isinstance(m, dict) and m.keys() == {"role", "content"} and all(isinstance(v, str) for v in m.values())
            for m in messages
        ):
            return messages
    return [{"role": "user", "content": prompt}]
