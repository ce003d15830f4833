import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from components.data_preparation.prepare import prepare_data
from components.data_preparation.settings import DataSettings
from components.shared.data.schema import PROBLEMS
from components.shared.errors import InputError
from components.shared.grading import GradingSettings
from components.shared.policy import Policy

LONG = "Every morning Aya goes for a 9-kilometer-long walk and stops at a coffee shop on her way back home at {}."


@pytest.fixture
def prepare(tmp_path: Path, tiny_policy: Path) -> Any:
    def run(
        rows: list[dict[str, Any]], benchmark: list[dict[str, Any]], policy: Path = tiny_policy, **settings: Any
    ) -> dict[str, Any]:
        for name, table in (("train", rows), ("test", benchmark)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
        prepare_data(
            str(policy),
            DataSettings.check(
                {"train": str(tmp_path / "train.jsonl"), "benchmarks": str(tmp_path / "test.jsonl"), **settings}, "data"
            ),
            GradingSettings(),
            completion_tokens=40,
            policy_out=tmp_path / "out" / "policy",
            problems_out=tmp_path / "out" / "problems",
            benchmarks_out=tmp_path / "out" / "benchmarks",
            report_out=tmp_path / "out" / "report.json",
            page_out=tmp_path / "out" / "page.html",
        )
        report: dict[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text())
        report["problems_table"] = pq.read_table(tmp_path / "out" / "problems" / "problems.parquet")
        report["benchmark_table"] = pq.read_table(tmp_path / "out" / "benchmarks" / "test.parquet")
        report["page"] = (tmp_path / "out" / "page.html").read_text()
        return report

    return run


BENCHMARK = [{"problem": "What is 1 + 1?", "answer": "2"}, {"problem": LONG.format("ten"), "answer": "10"}]


def test_rows_are_kept_or_dropped_and_counted_by_reason(prepare: Any) -> None:
    report = prepare(
        [
            {"problem": "What is 2 + 2?", "answer": "4", "level": 2},
            {"problem": "what is $2+2$", "answer": "4"},
            {"problem": "What is 3 + 3?", "answer": None},
            {"problem": "", "answer": "5"},
            {"problem": "What is 1+1", "answer": "2"},
            {"problem": LONG.format("ten") + " When is she there?", "answer": "10"},
            {"problem": "x" * 5000, "answer": "1"},
            {"problem": "Solve it.", "answer": "}"},
        ],
        BENCHMARK,
        prompt_template="{problem} Put the answer in a box.",
    )
    train = report["sources"][-1]
    assert (train["rows"], train["kept"]) == (8, 1)
    assert train["dropped"] == {
        "duplicate": 1,
        "no_answer": 1,
        "no_text": 1,
        "in_benchmark": 1,
        "in_benchmark_ngram": 1,
        "prompt_too_long": 1,
        "answer_not_gradable": 1,
    }
    assert train["overlaps"][0] | {"share": 0} == {
        "row": "line 5", "benchmark": "test", "benchmark_row": "line 1", "kind": "exact", "share": 0,
    }  # fmt: skip
    assert report["problems_table"].schema.equals(PROBLEMS)
    (kept,) = report["problems_table"].to_pylist()
    assert kept | {"problem_id": ""} == {
        "problem_id": "",
        "prompt": "What is 2 + 2? Put the answer in a box.",
        "answer": "4",
        "source": "train",
        "verifier": "math",
        "difficulty": 2.0,
    }
    assert "line 6" in report["page"] and "verbatim in a benchmark" in report["page"]
    assert "<script" not in report["page"]


def test_what_cannot_be_an_answer_or_a_text_is_dropped_with_a_reason(prepare: Any) -> None:
    report = prepare(
        [
            {"problem": "What is 2 + 2?", "answer": "4"},
            {"problem": "Show that 2 + 2 = 4.", "answer": "proof"},
            {"problem": "What is 3 + 3?", "answer": "6\x007"},
            {"problem": "What is \ud83d?", "answer": "6"},
            {"problem": "What is half of one?", "answer": "\frac{1}{2}"},
            {"problem": "Which numbers are less than 3?", "answer": {"any_of": ["1, 2", "0, 1, 2"]}},
        ],
        BENCHMARK,
    )
    train = report["sources"][-1]
    assert train["dropped"] == {"answer_is_none": 1, "damaged": 2}
    assert train["examples"]["damaged"] == [
        "line 3: the answer contains the control character '\\x00'",
        "line 4: the problem contains the unpaired surrogate '\\ud83d'",
    ]
    assert report["problems_table"]["answer"].to_pylist() == ["4", "\\frac{1}{2}", '{"any_of": ["1, 2", "0, 1, 2"]}']


def test_a_problem_with_different_answers_is_dropped_wherever_it_stands(prepare: Any) -> None:
    report = prepare(
        [
            {"problem": "What is 2 + 2?", "answer": "4"},
            {"problem": "What is 6 / 4?", "answer": "1.5"},
            {"problem": "what is $2+2$", "answer": "5"},
            {"problem": "What is 6 / 4", "answer": "\\frac{3}{2}"},
            {"problem": "What is 2 + 2?", "answer": "4"},
        ],
        BENCHMARK,
    )
    train = report["sources"][-1]
    assert (train["kept"], train["dropped"]) == (1, {"conflicting": 2, "duplicate": 2})
    assert train["examples"]["conflicting"] == [
        "line 3: 5 here, 4 in line 1",
        "line 1: 4 here, 5 in train line 3",
    ]
    assert report["problems"] == 1 and report["problems_table"]["answer"].to_pylist() == ["1.5"]
    report = prepare(
        [{"problem": "What is 2 + 2?", "answer": "4"}], [*BENCHMARK, {"problem": "What is 1 + 1?", "answer": "3"}]
    )
    assert report["benchmarks"] == {"test": 1} and report["benchmark_table"]["answer"].to_pylist() == ["10"]
    with pytest.raises(InputError, match=r"same problem with conflicting answers \(2\)"):
        prepare([{"problem": "Q?", "answer": "4"}, {"problem": "Q?", "answer": "5"}], BENCHMARK)


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 2?"},
    {"role": "assistant", "content": "3"},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "It is 4."},
]
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)


def with_template(policy: Path, folder: Path, template: str) -> Path:
    changed = Path(shutil.copytree(policy, folder))
    (changed / "chat_template.jinja").write_text(template)
    return changed


def test_a_chat_is_sent_with_its_system_message_and_examples(prepare: Any, tmp_path: Path, tiny_policy: Path) -> None:
    policy = with_template(tiny_policy, tmp_path / "chatty", TEMPLATE)
    report = prepare([{"prompt": CHAT, "answer": "4"}], BENCHMARK, policy=policy, prompt_template="{problem} Box it.")
    sent = "[system] Be brief.\n[user] 1 + 2?\n[assistant] 3\n[user] What is 2 + 2? Box it.\n[a]"
    assert report["first_prompts"]["data.train.0"] == sent
    assert "[system] Be brief." in report["page"]
    (prompt,) = report["problems_table"]["prompt"].to_pylist()
    assert Policy(policy).rendered_prompt(prompt) == sent


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
         "{{ m.content }}{% endfor %}", "line 1: the policy's chat template rejects this conversation: no system role"),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
         "line 1: the policy's chat template omits the system message 'Be brief.'"),
        ("{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}",
         "its chat template leaves out the assistant's message"),
        ("{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('users alone') }}{% endif %}"
         "{{ m.content }}{% endfor %}", "its chat template fails on assistant turns, .*users alone"),
        ("Hello.", "its chat template leaves out the user's message"),
    ],
)  # fmt: skip
def test_a_template_that_takes_no_such_chat_is_said(
    prepare: Any, tmp_path: Path, tiny_policy: Path, template: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prepare(
            [{"prompt": CHAT, "answer": "4"}], BENCHMARK, policy=with_template(tiny_policy, tmp_path / "p", template)
        )


def test_a_token_beyond_the_embeddings_is_said(prepare: Any, tmp_path: Path, tiny_policy: Path) -> None:
    policy = Path(shutil.copytree(tiny_policy, tmp_path / "policy"))
    tokenizer = Policy(policy).tokenizer
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(policy)
    report = prepare(
        [{"problem": "What is 2 + 2?", "answer": "4"}, {"problem": "<tool> 1 + 4?", "answer": "5"}],
        BENCHMARK,
        policy=policy,
    )
    assert report["sources"][-1]["dropped"] == {"token_beyond": 1}
    with pytest.raises(InputError, match="call model.resize_token_embeddings"):
        prepare(
            [{"problem": "What is 2 + 2?", "answer": "4"}], BENCHMARK, policy=policy, prompt_template="<tool>{problem}"
        )
    (policy / "chat_template.jinja").write_text("<tool>" + (policy / "chat_template.jinja").read_text())
    with pytest.raises(
        InputError, match=r"token '<tool>' \(id 266\) of the template, .* has no row in the model's emb"
    ):
        prepare([{"problem": "What is 2 + 2?", "answer": "4"}], BENCHMARK, policy=policy)


def test_a_benchmark_that_repeats_its_problems_is_counted_once(prepare: Any) -> None:
    report = prepare([{"problem": "What is 2 + 2?", "answer": "4"}], BENCHMARK * 32)
    assert report["benchmark_table"].num_rows == 2
    assert report["benchmarks"] == {"test": 2}
    assert report["sources"][0]["dropped"] == {"duplicate": 62}


def test_markup_in_data_is_shown_not_run(prepare: Any) -> None:
    report = prepare(
        [{"problem": "What is 2 + 2?", "answer": "4"}, {"problem": "Q", "answer": "<script>alert(1)</script> \\"}],
        BENCHMARK,
    )
    assert "<script" not in report["page"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (BENCHMARK, "the training set and benchmark test have the same problems"),
        ([{"problem": "Q1", "answer": None}, {"problem": "Q2", "answer": ""}], "its answers are empty or null"),
        ([{"problem": "x" * 5000, "answer": "1"}], "choose a model with a longer context"),
    ],
)
def test_nothing_left_is_an_error_that_says_why(prepare: Any, train: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(train, BENCHMARK)


def test_long_prompts_can_be_an_error(prepare: Any) -> None:
    rows = [{"problem": "What is 2 + 2?", "answer": "4"}, {"problem": "x" * 5000, "answer": "1"}]
    with pytest.raises(InputError, match="line 2: the prompt takes 5001 tokens, but only 2008 leave room"):
        prepare(rows, BENCHMARK, on_long_prompt="error")


def test_a_missing_file_is_named_before_any_work(prepare: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.benchmarks.aime: no such file: aime.jsonl"):
        prepare([{"problem": "Q", "answer": "4"}], BENCHMARK, benchmarks={"aime": "aime.jsonl"})
    assert not (tmp_path / "out").exists()


def test_an_ungradable_copy_does_not_push_out_the_good_one(prepare: Any) -> None:
    rows = [{"problem": "What is 2 + 2?", "answer": "}"}, {"problem": "What is 2 + 2?", "answer": "4"}]
    report = prepare(rows, BENCHMARK)
    assert report["problems_table"]["answer"].to_pylist() == ["4"]
    assert report["sources"][-1]["dropped"] == {"answer_not_gradable": 1}


def test_rows_that_a_tasks_scorer_cannot_judge_are_counted(prepare: Any, tmp_path: Path) -> None:
    rows = [
        {"problem": "Use 1 2 to make 3.", "answer": '{"numbers": [1, 2], "target": 3}'},
        {"problem": "Use 1 2 to make 4.", "answer": "4"},
    ]
    train = {"uri": str(tmp_path / "train.jsonl"), "verifier": "countdown"}
    report = prepare(rows, BENCHMARK, train=[train])
    assert report["problems"] == 1 and report["sources"][-1]["dropped"] == {"answer_not_gradable": 1}
    with pytest.raises(InputError, match="none of its 2 rows can be used: .*for example line 1"):
        prepare(rows, BENCHMARK, train=[{**train, "verifier": "reasoning-gym/chain_sum"}])


def test_tasks_without_a_gold_answer_are_kept(prepare: Any) -> None:
    report = prepare(
        [], BENCHMARK, train=["reasoning-gym://graph_color?size=3&seed=1", "reasoning-gym://countdown?size=3&seed=1"]
    )
    assert report["problems"] == 6


def test_generation_stops_where_the_template_ends_an_answer(prepare: Any, tmp_path: Path, tiny_policy: Path) -> None:
    policy = Path(shutil.copytree(tiny_policy, tmp_path / "other"))
    template = (policy / "chat_template.jinja").read_text()
    (policy / "chat_template.jinja").write_text(template.replace("{{ eos_token }}", "<|pad|>"))
    prepare([{"problem": "What is 2 + 2?", "answer": "4"}], BENCHMARK, policy=policy)
    config = json.loads((tmp_path / "out" / "policy" / "generation_config.json").read_text())
    assert config["eos_token_id"] == [1, 0]
    assert json.loads((policy / "generation_config.json").read_text())["eos_token_id"] == [
        1
    ]  # the user's is left alone


def test_the_base_policy_is_checked_and_copied(prepare: Any, tmp_path: Path, tiny_policy: Path) -> None:
    prepare([{"problem": "What is 2 + 2?", "answer": "4"}], BENCHMARK)
    for file in tiny_policy.iterdir():
        assert (tmp_path / "out" / "policy" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(InputError, match="no such folder"):
        prepare([{"problem": "What is 2 + 2?", "answer": "4"}], BENCHMARK, policy=Path("no/policy"))
