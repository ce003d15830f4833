import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.data_preparation.settings import DataSettings
from components.data_preparation.text import problem_id
from components.shared.data.sources import read_source
from components.shared.errors import InputError
from launch.recipe import data_version, load_recipe

ROOT = Path(__file__).resolve().parents[2]
LAPTOP = ROOT / "recipes" / "laptop.yaml"
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
GENERATED = [path for path in RECIPES if "hf://" not in path.read_text()]  # their problems are made here


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_loads(path: Path) -> None:
    assert load_recipe(path).iterations >= 1


@pytest.mark.parametrize("path", GENERATED, ids=lambda p: p.stem)
def test_training_and_every_benchmark_are_disjoint(path: Path) -> None:
    data: DataSettings = load_recipe(path).data
    sets = {
        name: {problem_id(p.text or "") for p in read_source(source, name)}
        for name, source in [*((f"train.{i}", s) for i, s in enumerate(data.train)), *data.benchmarks.items()]
    }
    names = list(sets)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not sets[a] & sets[b], f"{a} and {b} share problems"


def test_set_changes_keys_at_any_depth() -> None:
    recipe = load_recipe(
        LAPTOP,
        [
            "rl.steps=7",
            "rl.learning_rate=1e-4",
            "eval.pass_at=[1, 4]",
            "data.benchmarks.dev=x.jsonl",
            "data.train.0=y.jsonl",
            "report.validation=test",
        ],
        iterations=5,
    )
    assert (recipe.rl.steps, recipe.rl.learning_rate, recipe.eval.pass_at) == (7, 1e-4, [1, 4])
    assert recipe.data.benchmarks["dev"].uri == "x.jsonl" and recipe.data.train[0].uri == "y.jsonl"
    assert (recipe.iterations, recipe.report.validation) == (5, "test")
    assert load_recipe(LAPTOP, ["data.train=[a.jsonl, b.jsonl]"]).data.train[1].uri == "b.jsonl"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rl.stepz=7", "unknown recipe key 'rl.stepz'. Did you mean 'steps'"),
        ("rll.steps=7", "unknown recipe key 'rll'. Did you mean 'rl'"),
        ("rl.steps", "--set expects KEY=VALUE"),
        ("=3", "--set expects KEY=VALUE"),
        ("rl.steps=many", "recipe key 'rl.steps': .*valid integer.*'many'"),
        ("rl.steps.more=1", "'steps' is a value, not a section"),
        ("rl.group_size=1", "recipe key 'rl.group_size'.*greater than or equal to 2"),
        ("eval.samples=8", "asks for pass@32, but eval.samples is 8"),
        ("data.train.9=x.jsonl", "'9' is not an index of the list, expected 0 to 0"),
        ("data.benchmarks.dev.uri=x", "'dev' is a value, not a section"),
        ("data.train=[{path: x.jsonl}]", "unknown recipe key 'data.train.0.path'"),
        ("report.validation=tset", "is not a benchmark. Did you mean 'test'"),
        ("rl.steps=[", "is not valid YAML"),
        ("data.benchmarks=[null]", "a benchmark must be a URI or a mapping with a uri, not None"),
        ("seed=-1", "recipe key 'seed'"),
        ("rl.learning_rate=.inf", "recipe key 'rl.learning_rate': Input should be a finite number"),
        ("rft.max_grad_norm=.nan", "recipe key 'rft.max_grad_norm': Input should be a finite number"),
        ("pools.cpu.memory=64GB", "recipe key 'pools.cpu.memory': expected a size .* such as 64Gi.*'64GB'"),
        ("pools.cpu.memory=64 Gi", "expected a size .* without a space"),
        ("pools.cpu.memory=0Gi", "expected a size"),
        ("pools.cpu.memory=64", "expected a size"),
        ("pools.cpu.cpu=eight", "recipe key 'pools.cpu.cpu': expected a number of cores"),
        ("pools.cpu.cpu=0", "expected a number of cores"),
        ("pools.training.shared_memory=16GB", "recipe key 'pools.training.shared_memory': expected a size"),
        ("eval={samples: 8, samples: 16}", "duplicate key 'samples'"),
    ],
)
def test_wrong_keys_and_values_are_named(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(LAPTOP, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the recipe"),
        ("a: [", "is not valid YAML"),
        ("- a", "must be a mapping of keys"),
        ("rl: {steps: 1}\ndata: {train: a, benchmarks: b}", "recipe key 'base_policy' is missing"),
        ("base_policy: x\nrl: {steps: 1}", "recipe key 'data' is missing"),
        ("base_policy: x\nrl: {steps: 1}\ndata: {train: [], benchmarks: b}", "data.train.*at least 1 item"),
    ],
)
def test_recipes_that_cannot_be_used(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("key", ["rl.steps", "data.train", "iterations"])
def test_a_key_that_is_there_twice_is_refused_wherever_it_is(tmp_path: Path, key: str) -> None:
    text = "base_policy: x\niterations: 1\nrl:\n  steps: 1\ndata:\n  train: a\n  benchmarks: b\n"
    name = key.rpartition(".")[2]
    line = next(line for line in text.splitlines() if line.strip().startswith(name))
    (tmp_path / "r.yaml").write_text(text.replace(line, f"{line}\n{line}"))
    with pytest.raises(InputError, match=f"duplicate key '{name}'; remove one of the two"):
        load_recipe(tmp_path / "r.yaml")


def test_anchors_and_merges_of_yaml_are_no_duplicates(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "base_policy: x\nrl: {steps: 1}\ndata: {train: a, benchmarks: b}\n"
        "pools:\n  cpu: &one {cpu: 4, memory: 8Gi}\n  training: {<<: *one, memory: 16Gi}\n"
    )
    pools = load_recipe(tmp_path / "r.yaml").pools
    assert (pools.training.cpu, pools.training.memory) == ("4", "16Gi")


@pytest.mark.parametrize(
    "text",
    ["{{$.inputs.parameters['x']}}", "{{ $ }}", "{{workflow.name}}", "{{=1+1}}", "{{item}}", "[[ScheduledTime]]",
     "{{channel:task=;name=x;type=String;}}", "{{inputs.parameters.x}}"],
)  # fmt: skip
def test_placeholders_of_kfp_and_argo_are_refused_wherever_they_stand(text: str) -> None:
    for key in ("data.prompt_template", "data.train.0", "base_policy"):
        with pytest.raises(InputError, match=f"recipe key '{key}' contains .*Kubeflow Pipelines would replace"):
            load_recipe(LAPTOP, [f'{key}="{{problem}} {text}"'])


@pytest.mark.parametrize(
    "text", ["\\boxed{{x}}", "{{1}\\over{2}}", "a [[1, 2]] b", "{ {$x$} }", "$x$ {problem}", "{{x}}"]
)
def test_what_only_looks_like_a_placeholder_is_let_through(text: str) -> None:
    template = f"{{problem}} {text}"
    recipe = load_recipe(LAPTOP, [f"data.prompt_template={json.dumps(template)}"])
    assert recipe.data.prompt_template == template


def test_check_names_everything_at_once(tmp_path: Path) -> None:
    """Faults of the recipe, of the files that it names and of the policy, in one message."""
    (tmp_path / "r.yaml").write_text(
        "base_policy: no/policy\nrl: {steps: 1, learning_rate: .inf}\n"
        "data: {train: nowhere.jsonl, benchmarks: {dev: 'countdown://dev?count=3'}}\npools: {cpu: {memory: 64GB}}\n"
    )
    done = subprocess.run(
        [sys.executable, "pipeline.py", "check", "--recipe", tmp_path / "r.yaml"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    head, *faults = done.stderr.splitlines()
    assert head == "error: 4 errors to fix before this run can start:"
    for said, fault in zip(("rl.learning_rate", "pools.cpu.memory", "nowhere.jsonl", "no/policy"), faults, strict=True):
        assert said in fault


def test_an_empty_section_takes_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("base_policy: x\nrl: {steps: 1}\ndata: {train: a, benchmarks: b}\nrft:\n")
    assert load_recipe(tmp_path / "r.yaml").rft.epochs == 3


def test_the_data_version_follows_the_files_contents(tmp_path: Path) -> None:
    def version(**files: str) -> str:
        for name, text in files.items():
            (tmp_path / f"{name}.jsonl").write_text(text)
        settings: list[Any] = [f"data.train={tmp_path / 'a.jsonl'}", f"data.benchmarks={tmp_path / 'b.jsonl'}"]
        return data_version(load_recipe(LAPTOP, settings))

    first = version(a="1", b="2")
    assert version(a="1", b="2") == first
    assert len({first, version(a="x", b="2"), version(a="1", b="x")}) == 3
