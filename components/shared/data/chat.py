"""Prompts that are conversations, with a system message, examples or several turns.

A problem's prompt is either the user's message or a conversation as canonical JSON: a list of objects with role and
content.
"""

import ast
import json
from collections.abc import Sequence
from typing import Any

Message = dict[str, str]
# Names that data sets use for the parts of a message and for the roles.
_ROLE, _CONTENT = ("role", "from"), ("content", "value")
_SPEAKERS = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


class NotText(ValueError):
    """A message contains something other than text, such as an image."""


def parse_messages(value: Any) -> list[Message] | None:
    """Parses a column's value as a conversation; None if it is not one.

    Args:
        value: a list of messages, or a JSON string of one.

    Raises:
        NotText: a message contains something other than text.
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
    try:  # a Python repr of a list, which is what pandas writes to CSV
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
    raise NotText("contains something other than text in a message")


def up_to_last_question(messages: list[Message]) -> list[Message]:
    """Cuts a conversation after its last question, since the assistant's reply would give the solution away."""
    last = max((number for number, message in enumerate(messages) if message["role"] == "user"), default=-1)
    return [
        {**message, "content": message["content"].strip()}
        for message in messages[: last + 1]
        if message["content"].strip()
    ]


def as_prompt(messages: list[Message]) -> str:
    """Formats a conversation as a problem's prompt; a single user message as plain text."""
    if len(messages) == 1 and messages[0]["role"] == "user" and conversation(messages[0]["content"]) == messages:
        return messages[0]["content"]
    return json.dumps([{"role": m["role"], "content": m["content"]} for m in messages], ensure_ascii=False)


def conversation(prompt: str) -> list[Message]:
    """Parses a problem's prompt into the messages that the chat template renders."""
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
