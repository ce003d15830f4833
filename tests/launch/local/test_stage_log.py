from pathlib import Path

from launch.local.stage_log import StageLog, last_error, last_result


def test_lines_are_passed_on_and_an_empty_log_touches_no_file(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "rft.log"
    path.write_text("    [result] before\n")
    with StageLog(path, said.append) as log:
        assert log.is_empty
    assert last_result(path) == "before"
    with StageLog(path, said.append) as log:
        print("    [result] 3", end="", file=log)
        print(" updates\n    next", file=log)
        assert not log.is_empty
    assert said == ["[result] 3 updates", "next"]
    assert last_result(path) == "3 updates"


def test_the_error_is_the_stages_message_or_the_end_of_its_log(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("    noise\n    [error] RFT: first line\n    second line\n    \n\n12:00 - ERROR - Task failed\n")
    assert last_error(path) == "RFT: first line\nsecond line"
    path.write_text("    Traceback\n    ValueError: x\n12:00 - ERROR - Task failed\n")
    assert last_error(path).splitlines()[-1].strip() == "ValueError: x"
    assert last_result(tmp_path / "none.log") == ""
