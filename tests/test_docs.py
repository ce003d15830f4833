"""The documentation says what the code does: links, paths, commands, make targets, recipe keys, and facts."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from components.rl_exploration.recorder import shard_name
from components.shared.stage import Progress
from launch.compiled import read_compiled
from launch.kubeflow.workflow_size import workflow_size
from launch.recipe import Recipe, load_recipe
from pipeline import compile_pipeline, main
from tests.scripts import import_script

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = sorted(
    path
    for folder in (ROOT, DOCS, ROOT / "manifests", ROOT / "manifests" / "overlays" / "gke")
    for path in folder.glob("*.md")
)
SECTIONS = {name: field.annotation for name, field in Recipe.model_fields.items() if hasattr(field.annotation, "check")}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def make_parameters() -> ModuleType:
    return import_script(DOCS / "make_parameters.py")


def blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks of a page in these languages; an empty one is that of a block that names none."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", page.read_text(), re.M | re.S)
    return [re.sub(rf"^{indent}", "", body, flags=re.M) for indent, language, body in found if language in languages]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S)


def spans(page: Path) -> list[str]:
    """The code spans of a page's prose, each on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def code(page: Path) -> list[str]:
    """Every line of a page's code blocks, continued ones joined, and every code span."""
    return [line for block in blocks(page, "", "sh") for line in block.replace("\\\n", " ").splitlines()] + spans(page)


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_the_readme_lists_every_page() -> None:
    for page in (path for path in PAGES if path.parent in (DOCS, ROOT) and path != README):
        assert f"]({page.relative_to(ROOT)})" in README.read_text(), page.name


@every_page
def test_a_page_starts_with_what_it_is_for(page: Path) -> None:
    title, blank, first = page.read_text().splitlines()[:3]
    assert title.startswith("# ") and not blank
    assert re.match(r"`?\w", first), "expected a sentence"


def test_the_table_of_parameters_is_up_to_date() -> None:
    text = (DOCS / "parameters.md").read_text()
    assert text == make_parameters().markdown(), "run `make docs`"
    for key in ("rl.learning_rate", "filter.max_success_rate", "pools.POOL.node_selector", "base_policy"):
        assert f"`{key}`" in text


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Git hosts make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target}: there is no {file}"
        if anchor:
            assert anchor in anchors(file), f"{target}: no such heading among {sorted(anchors(file))}"


@every_page
def test_paths_are_in_the_repository(page: Path) -> None:
    """Paths that start at a folder of the repository, or at one beside the manifests' README."""
    folders = "|".join(re.escape(path.name) for path in ROOT.iterdir() if path.is_dir())
    for line in code(page):
        for path in re.findall(rf"(?<![\w/.:-])(?:{folders})/[\w./*-]+", line):
            path = path.rstrip("./")
            if path.startswith(("runs/", "build/", ".venv")) or re.search(r"[A-Z]{3}", path):
                continue  # made by a command, or with a placeholder such as STAGE
            places = (ROOT, page.parent, ROOT / "manifests")
            assert any(next(place.glob(path), None) for place in places), f"there is no {path}"


def product_commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each `python pipeline.py ...` on a page."""
    for line in code(page):
        if match := re.search(r"python pipeline\.py (.*)", line):
            yield shlex.split(match[1].replace("...", ""), comments=True)


def options(command: click.Command) -> set[str]:
    """The options of a command."""
    own = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    if isinstance(command, click.Group) and "create" in command.commands:
        own |= options(command.commands["create"])  # `schedule --recipe ...` is short for `schedule create ...`
    return own


def every_option(command: click.Command) -> set[str]:
    """The options of a command and of its subcommands."""
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return options(command).union(*map(every_option, inner))


@every_page
def test_commands_and_options_exist(page: Path) -> None:
    for arguments in product_commands(page):
        command, rest = main, list(arguments)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"no command {rest[0]!r}"
            command = command.commands[rest.pop(0)]
        for option in (argument.partition("=")[0] for argument in rest if argument.startswith("-")):
            assert option in options(command), f"{command.name} has no option {option}"


@every_page
def test_options_named_alone_exist(page: Path) -> None:
    """Such as `--upload-to s3://BUCKET/PREFIX` and `submit --continue RUN`."""
    if page.name == "node-pools.md":
        pytest.skip("gcloud's options")
    for span in spans(page):
        name, *rest = span.split()
        if name.startswith("--"):
            assert name.partition("=")[0] in every_option(main) | {"--version"}, span
        elif name in main.commands and rest and rest[0].startswith("--"):
            assert rest[0].partition("=")[0] in options(main.commands[name]), span


@every_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):.*##", MAKEFILE, re.M))
    for line in code(page):
        if match := re.match(r"(?:\.ci/docker )?make ([a-z0-9-]+)", line.strip()):
            assert match[1] in targets, f"no target {match[1]!r} in the Makefile"


def recipe_keys() -> set[str]:
    """Every recipe key, those of each pool too, and every section and mapping on the way to one."""
    keys = set(re.findall(r"^\| `([\w.]+)` \|", make_parameters().markdown(), re.M))
    keys |= {key.replace("POOL", pool) for key in keys for pool in ("cpu", "training", "inference")}
    return keys | {key.rsplit(".", count)[0] for key in keys for count in range(1, key.count(".") + 1)}


def former_names() -> set[str]:
    """The former names of renamed keys."""
    return {f"{section}.{name}" for section, kind in SECTIONS.items() for name in getattr(kind, "renamed", {})}


@every_page
def test_recipe_keys_exist(page: Path) -> None:
    known = recipe_keys()
    in_grading = {key.removeprefix("grading.") for key in known}  # as `grade --set` takes them
    for span in spans(page):
        key = re.match(rf"((?:{'|'.join(SECTIONS)})(?:\.\w+)+)(?:[:=]|$)", span)
        if key and not key[1].endswith((".html", ".json", ".jsonl", ".parquet", ".py")):
            assert key[1] in known, f"no recipe key {key[1]!r}"
    for line in code(page):
        for name in re.findall(r"--set ([a-z_.]+)=", line):
            assert name in known | in_grading, f"no recipe key {name!r}"


@every_page
def test_recipe_keys_in_examples_exist(page: Path) -> None:
    known = recipe_keys()

    def keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in values.items():
            if isinstance(value, dict) and f"{prefix}{name}." not in ("data.benchmarks.",) and name != "node_selector":
                yield from keys(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    for example in map(yaml.safe_load, blocks(page, "yaml")):
        if set(example) <= set(Recipe.model_fields):
            assert set(keys(example)) <= known


def test_former_keys_are_in_the_changelog_alone() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    for name in former_names():
        assert f"| {name} |" in changelog, f"say that {name} was renamed"
        for page in PAGES:
            assert f"`{name}`" not in page.read_text(), f"{page.name}: {name} was renamed"


def test_the_number_of_tests_is_in_one_place() -> None:
    places = [page.name for page in PAGES for _ in re.findall(r"\d[\d,]* (?:quick tests|passed)", page.read_text())]
    assert places == ["README.md"]


def test_times_of_tests_are_in_one_place() -> None:
    timed = r"make (test[a-z-]*|fuzz|bench[a-z0-9-]*|reproduce[a-z-]*|smollm2|lint)\b[^.|]*\b(?:minutes?|hours?)\b"
    for page in PAGES:
        if page != CONTRIBUTING:
            assert not re.search(timed, " ".join(prose(page).split())), f"{page.name}: times belong in CONTRIBUTING.md"


def test_contributing_lists_every_target_that_tests() -> None:
    targets = re.findall(r"^((?:test|bench|fuzz|reproduce|smollm2|lint)[a-z0-9-]*):", MAKEFILE, re.M)
    assert len(targets) > 10
    for target in targets:
        assert re.search(rf"^\|.*`make {target}`.*\|$", CONTRIBUTING.read_text(), re.M), target


def test_the_readme_quotes_the_reproduction() -> None:
    figures = re.findall(r"[+-]?\d\.\d{3} \[[^\]]+\]", README.read_text())
    assert len(figures) > 10
    for figure in figures:
        assert figure in (DOCS / "reproduction.md").read_text()


def test_the_readme_shortens_the_transcript_of_the_laptop_run() -> None:
    transcript = (DOCS / "local-runs.md").read_text()
    (shown,) = (block for block in blocks(README, "") if block.startswith("rloop "))
    for line in shown.splitlines():
        assert line.removesuffix("...").rstrip() in transcript


def test_progress_lines_are_at_most_one_per_second(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(100, "steps")
    for _ in range(50):
        progress.advance()
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert "at most one progress line per second" in " ".join((DOCS / "day-2.md").read_text().split())


def test_rollouts_are_one_file_per_step_and_rank() -> None:
    assert f"one file per step and rank (`{shard_name(12, 3)}`)" in (DOCS / "several-gpus.md").read_text()
    assert "one Parquet file per step and rank" in (DOCS / "day-2.md").read_text()
    assert "one shard per step and rank" in (DOCS / "object-store.md").read_text()


def test_the_pipeline_has_twelve_parameters() -> None:
    parameters = {*re.findall(r"\*Parameter `(\w+)`", make_parameters().markdown()), "advanced"}
    assert len(parameters) == 12
    for page in (README, DOCS / "cluster.md"):
        assert "twelve parameters" in page.read_text()


def test_the_table_of_workflow_sizes(tmp_path: Path) -> None:
    table = (DOCS / "cluster.md").read_text()
    row = re.search(r"^\| 3 \| (\d+) \| \d+ KB \| (\d+) KB \| ([\d,]+) KB \| (\d+) KB \|", table, re.M)
    assert row
    compile_pipeline(load_recipe(ROOT / "recipes" / "laptop.yaml", (), 3), tmp_path / "rloop.yaml")
    size = workflow_size(read_compiled(tmp_path / "rloop.yaml"))
    kilobytes = [size.specification / 1000, (size.specification + size.nodes) / 1000, size.bytes / 1000]
    assert size.stages == int(row[1])
    assert kilobytes == pytest.approx([float(cell.replace(",", "")) for cell in row.groups()[1:]], rel=0.05)


def test_the_example_of_grading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output is as shown, but for times."""
    monkeypatch.chdir(tmp_path)
    example, shown, explained = blocks(DOCS / "grading.md", "")
    answers = re.search(r"<<'END'\n(.*)^END$", example, re.M | re.S)
    assert answers
    Path("answers.jsonl").write_text(answers[1])
    command = shlex.split(example.splitlines()[-1])[2:]

    def timeless(text: str) -> list[str]:
        lines = [re.sub(r"\d+\.\d+ s \(\d+ per second\)", "TIME", line) for line in text.splitlines()]
        return [line for line in lines if not line.startswith("slowest")]

    assert timeless(CliRunner().invoke(main, command).output) == timeless(shown)
    output = CliRunner().invoke(main, ["grade", "answers.jsonl", "--explain"]).output
    assert output.splitlines()[: len(explained.splitlines())] == explained.splitlines()
