import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.data.chat import as_prompt, conversation, parse_messages, up_to_last_question
from components.shared.data.sources import Source, read_source

SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION = {"role": "user", "content": "1 + 1?"}
ANSWER = {"role": "assistant", "content": "It is \\boxed{2}."}
NEXT = {"role": "user", "content": "2 + 2?"}


def problem(tmp_path: Path, prompt: Any, column: str = "prompt") -> Any:
    (tmp_path / "a.jsonl").write_text(json.dumps({column: prompt, "answer": "4"}) + "\n")
    (found,) = read_source(Source(uri=str(tmp_path / "a.jsonl")), "data.train.0")
    return found


@pytest.mark.parametrize("written", [lambda chat: chat, json.dumps, lambda chat: json.dumps(chat, indent=1), repr])
@pytest.mark.parametrize(
    ("chat", "text", "sent"),
    [
        ([QUESTION], "1 + 1?", [QUESTION]),
        ([QUESTION, ANSWER], "1 + 1?", [QUESTION]),
        ([SYSTEM, QUESTION, ANSWER], "1 + 1?", [SYSTEM, QUESTION]),
        ([SYSTEM, QUESTION, ANSWER, NEXT], "2 + 2?", [SYSTEM, QUESTION, ANSWER, NEXT]),
        ([SYSTEM, QUESTION, ANSWER, NEXT, ANSWER], "2 + 2?", [SYSTEM, QUESTION, ANSWER, NEXT]),
        ([{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}], "1 + 1?", [QUESTION]),
        ([{"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}], "1 + 1?", [QUESTION]),
        ([QUESTION, {"role": "assistant", "content": ""}], "1 + 1?", [QUESTION]),
    ],
)
def test_a_chat_is_sent_whole_up_to_its_last_question(
    tmp_path: Path, written: Any, chat: list[dict[str, Any]], text: str, sent: list[dict[str, str]]
) -> None:
    for column in ("prompt", "messages", "conversations"):
        found = problem(tmp_path, written(chat), column)
        assert found.text == text
        assert conversation(found.chat or found.text) == sent


def test_a_chat_with_an_image_is_named_and_one_without_a_question_has_no_text(tmp_path: Path) -> None:
    found = problem(tmp_path, [{"role": "user", "content": [{"type": "image", "image": "x"}]}])
    assert found.fault == "damaged" and "other than text" in found.detail
    assert problem(tmp_path, [SYSTEM, ANSWER]).text is None


@pytest.mark.parametrize("text", ["[1, 2] has which role?", "[", '[{"role": 1}]', '["role"]', '[{"role": "user"}]', ""])
def test_text_that_only_looks_like_a_chat_is_text(text: str) -> None:
    assert parse_messages(text) is None
    assert conversation(text) == [{"role": "user", "content": text}]


TEXTS = st.text(min_size=1).map(str.strip).filter(bool)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXTS}),
    max_size=4,
)


@given(MESSAGES, TEXTS)
def test_prompts_come_back_as_the_conversations_that_they_were(messages: list[dict[str, str]], text: str) -> None:
    chat = [*messages, {"role": "user", "content": text}]
    assert conversation(as_prompt(chat)) == chat
    assert up_to_last_question([*up_to_last_question(chat), ANSWER]) == up_to_last_question(chat)
