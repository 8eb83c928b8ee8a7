"""Every file under recipes/ can be run, and says what the papers and released scripts say.

The tables here were typed from the papers and scripts, not from the recipes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.command import Call, contents
from nacre.runs.plan import RunPlan, plan_of
from nacre.runs.recipe import read_recipe
from nacre.tasks.published.streams import get_stream

FOLDER = Path(__file__).parents[2] / "recipes"
FILES = sorted(
    str(path.relative_to(FOLDER))
    for path in FOLDER.rglob("*.yaml")
    if "\nvary:" not in path.read_text("utf-8") and path.parent.name != "accelerate"
)
ORDERS = (1, 2, 3, 4, 5, 6)

# AM-LoRA, appendix 7.2, by task; "order 4: MNLI 0; CB, WiC, COPA, QQP, BoolQA 0.01; RTE 0.3; ... 0.001".
LAMBDAS: dict[int, list[float]] = {
    1: [1e-5, 1e-5, 1e-5, 1e-5],
    2: [1e-5, 1e-5, 1e-5, 1e-5],
    3: [1e-5, 1e-5, 1e-5, 1e-5],
    4: [0, 0.01, 0.01, 0.01, 0.01, 0.01, 0.3, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001],
    5: [0.0001, 0.0001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.01, 0.01, 0.01, 0.01, 0.01],
    6: [0.001] * 15,
}
# O-LoRA, logs_and_outputs/long_olora/hyparam.sh: order 6, task by task.
O_LORA = {
    # task: (lamda_1, lamda_2)
    "yelp": (0, 0), "amazon": (0.5, 0), "mnli": (0.5, 0), "cb": (0.5, 0), "copa": (0.5, 0.1), "qqp": (0.5, 0.1),
    "rte": (0.5, 0.3), "imdb": (0.5, 0), "sst2": (0.5, 0.1), "dbpedia": (5, 0), "agnews": (5, 0), "yahoo": (5, 0.1),
    "multirc": (5, 0), "boolqa": (5, 0.1), "wic": (5, 0.3),
}  # fmt: skip
TWICE = {"o_lora": {6: "mnli"}, "migu": {5: "wic", 6: "mnli"}}  # tasks with two epochs in the released scripts
# MIGU, appendix A: method, learning rate, threshold.
MIGU = {
    "ft": ("seq_ft", 1e-4, 0.7),
    "lora": ("seq_lora", 1e-3, 0.7),
    "inc_lora": ("inc_lora", 1e-3, 0.7),
    "o_lora": ("o_lora", 1e-3, 0.05),
    "lora_replay": ("lora_replay", 1e-3, 0.4),
}
# Optimizer steps of one epoch with 64 rows a step, from the published numbers of training rows.
STEPS = {
    "dbpedia": 219, "yahoo": 157, "amazon": 79, "yelp": 79, "agnews": 63, "mnli": 47, "copa": 7, "cb": 4,
    "qqp": 32, "rte": 32, "imdb": 32, "sst2": 32, "multirc": 32, "boolqa": 32, "wic": 32,
}  # fmt: skip
PUBLISHED_ROWS = {
    "dbpedia": 14000, "yahoo": 10000, "amazon": 5000, "yelp": 5000, "agnews": 4000, "mnli": 3000, "copa": 400,
    "cb": 250, "qqp": 2000, "rte": 2000, "imdb": 2000, "sst2": 2000, "multirc": 2000, "boolqa": 2000, "wic": 2000,
}  # fmt: skip
DELIVERED_ROWS = {
    "dbpedia": 2000, "yahoo": 2000, "amazon": 4500, "yelp": 3250, "agnews": 3600, "mnli": 2700, "copa": 300, "cb": 200,
    "qqp": 1800, "rte": 1800, "imdb": 1800, "sst2": 1800, "multirc": 1800, "boolqa": 1800, "wic": 1800,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NACRE_DATA", "NACRE_MODEL"):
        monkeypatch.delenv(name, raising=False)


def plan(name: str, *settings: str) -> RunPlan:
    return plan_of(read_recipe(FOLDER / name, {}, settings))


def expected_files() -> Iterator[str]:
    for order in ORDERS:
        yield f"am_lora/t5_large_order{order}.yaml"
        yield f"lb_cl/t5_large_order{order}.yaml"
        for base in MIGU:
            yield f"migu/t5_large_{base}_order{order}.yaml"
            yield f"migu/t5_large_{base}_migu_order{order}.yaml"
        yield f"migu/t5_large_released_ft_order{order}.yaml"
        yield f"migu/t5_large_released_ft_migu_order{order}.yaml"
    for order in (1, 2, 3):
        yield f"am_lora/llama2_7b_order{order}.yaml"
        yield f"lb_cl/t5_base_order{order}.yaml"
        yield f"o_lora/llama_7b_order{order}.yaml"
    yield from (f"o_lora/t5_large_order{order}.yaml" for order in (1, 2, 3, 6))
    yield from (f"lb_cl/t5_large_order1_{variant}.yaml" for variant in ("l_cl", "b_cl", "nlnb_cl"))
    yield from (f"lb_cl/t5_large_order1_{start}.yaml" for start in ("without_sigma", "literal"))
    yield from ("am_lora/small_order1.yaml", "am_lora/small_order4.yaml", "o_lora/small_order1.yaml")
    yield from (f"lb_cl/small_order1{variant}.yaml" for variant in ("", "_l_cl", "_b_cl", "_nlnb_cl", "_literal"))
    for base in MIGU:
        yield f"migu/small_{base}_order1.yaml"
        yield f"migu/small_{base}_migu_order1.yaml"


def test_every_published_setting_has_its_file_and_no_other() -> None:
    assert sorted(expected_files()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_it_can_be_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the data and without the model: everything else is checked, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    found = plan(name)
    stream = get_stream(str(found.recipe.stream))
    assert [stage.name for stage in found.stages] == list(stream.tasks)
    assert {stage.steps for stage in found.stages} == {None}
    assert any("NACRE_DATA is not set" in sentence for sentence in found.missing)
    assert ("small" in name) == any("NACRE_MODEL is not set" in sentence for sentence in found.missing)
    paper, file = name.removesuffix(".yaml").split("/")
    assert found.recipe.output == str(tmp_path / "runs" / paper / f"{file}-seed{found.recipe.seed}")
    assert found.recipe.data == "$NACRE_DATA/long_sequence"
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", FILES)
def test_lists_have_a_value_for_each_task_beside_its_name(name: str) -> None:
    text = (FOLDER / name).read_text()
    document = yaml.safe_load(text)
    tasks = list(get_stream(document["stream"]).tasks)
    named = re.findall(r"^ +- \S+ +# (\w+)$", text, re.MULTILINE)
    lists = [value for group in ("optim", "set") for key, value in document.get(group, {}).items()
             if isinstance(value, list) and key != "betas"]  # fmt: skip
    assert [len(values) for values in lists] == [len(tasks)] * len(lists)
    assert named == tasks * len(lists)


@pytest.mark.parametrize("name", [name for name in FILES if "small" not in name])
def test_settings_are_those_of_the_source(name: str) -> None:
    paper = name.partition("/")[0]
    found = re.search(r"order(\d)", name)
    assert found is not None
    order = int(found[1])
    recipe = plan(name).recipe
    tasks = get_stream(f"order{order}").tasks
    assert recipe.stream == f"order{order}"
    assert recipe.identity == "full"
    assert recipe.evaluation.max_new_tokens == 50
    assert (recipe.limit_train, recipe.limit_test, recipe.measure_on) == (None, None, "test")
    assert recipe.matrix == ("full" if order <= 3 else "seen")
    optim = recipe.optim
    assert (optim.schedule, optim.warmup, optim.betas, optim.max_grad_norm) == ("constant", 0, (0.9, 0.999), 1.0)
    assert (optim.max_source_length, optim.max_target_length) == (512, 50)
    assert epochs(optim.epochs, tasks) == {task: 2 if task == TWICE.get(paper, {}).get(order) else 1 for task in tasks}
    check = {"am_lora": check_am_lora, "lb_cl": check_lb_cl, "migu": check_migu, "o_lora": check_o_lora}[paper]
    check(name, order, recipe.document())


def epochs(setting: int | tuple[int, ...], tasks: tuple[str, ...]) -> dict[str, int]:
    values = setting if isinstance(setting, tuple) else (setting,) * len(tasks)
    return dict(zip(tasks, values, strict=True))


def check_am_lora(name: str, order: int, recipe: dict[str, Any]) -> None:
    llama = "llama" in name
    assert recipe["method"] == "am_lora"
    assert recipe["model"] == ("meta-llama/Llama-2-7b-hf" if llama else "t5-large")
    assert recipe["optim"]["learning_rate"] == 1e-4
    assert recipe["optim"]["batch_size"] == (8 if llama else 64)
    assert recipe["optim"]["weight_decay"] == 0
    given = recipe["set"]
    assert (given["rank"], given["alpha"], given["dropout"], given["selectors"]) == (8, 32, 0.1, "all")
    assert given["sparsity"] == LAMBDAS[order]
    assert given["roles"] == ["query", "value"]


def check_o_lora(name: str, order: int, recipe: dict[str, Any]) -> None:
    llama = "llama" in name
    assert recipe["method"] == "o_lora"
    assert recipe["model"] == ("huggyllama/llama-7b" if llama else "t5-large")
    assert recipe["optim"]["learning_rate"] == ([1e-3, 1e-4, 1e-4, 1e-4] if llama else 1e-3)
    assert (recipe["optim"]["batch_size"], recipe["optim"]["weight_decay"], recipe["seed"]) == (64, 0, 42)
    given = recipe["set"]
    assert (given["rank"], given["alpha"], given["dropout"]) == (8, 32, 0.1)
    assert (given["norm"], given["side"], given["reduce"]) == ("absolute", "input", "sum")
    check_o_lora_lambdas(order, given)


def check_o_lora_lambdas(order: int, given: dict[str, Any]) -> None:
    if order <= 3:
        assert (given["orthogonality"], given["shrinkage"]) == (0.5, 0)
        return
    pairs = zip(given["orthogonality"], given["shrinkage"], strict=True)
    assert list(pairs) == [O_LORA[task] for task in get_stream(f"order{order}").tasks]


def check_lb_cl(name: str, order: int, recipe: dict[str, Any]) -> None:
    assert recipe["method"] == "lb_cl"
    assert recipe["model"] == ("t5-base" if "t5_base" in name else "t5-large")
    assert (recipe["optim"]["learning_rate"], recipe["optim"]["batch_size"]) == (1e-3, 64)
    given = recipe["set"]
    assert (given["rank"], given["alpha"], given["dropout"]) == (8, None, 0.1)
    assert (given["seed_samples"], given["orthonormality"], given["space"]) == (8, 0.5, "union")
    assert given["sigma"] == ("zero" if "without_sigma" in name else "average" if "literal" in name else "kept")
    ablation = re.search(r"order1_(l_cl|b_cl|nlnb_cl)", name)
    assert given["variant"] == (ablation[1] if ablation else "lb_cl")


def check_migu(name: str, order: int, recipe: dict[str, Any]) -> None:
    parsed = re.fullmatch(r"migu/t5_large_(released_)?(\w+?)(_migu)?_order\d\.yaml", name)
    assert parsed is not None
    released, base, masked = parsed.groups()
    method, rate, threshold = MIGU[base]
    assert recipe["method"] == method + ("+migu" if masked else "")
    assert (recipe["model"], recipe["seed"]) == ("t5-large", 42)
    assert (recipe["optim"]["learning_rate"], recipe["optim"]["batch_size"]) == (rate, 64)
    assert recipe["optim"]["weight_decay"] == (0 if released else 0.01)
    given = recipe["set"]
    if base != "ft":
        assert (given["rank"], given["alpha"], given["dropout"]) == (8, 32, 0.05)
    if base == "lora_replay":
        assert (given["fraction"], given["per_task"]) == (0.02, None)
    if base == "o_lora":
        check_o_lora_lambdas(order, given)
    if masked:
        mask = given["migu"]
        assert (mask["threshold"], mask["mask"], mask["first_task"]) == (threshold, "gradient", False)
        assert (mask["count"], mask["tokens"]) == (("quantile", "all") if released else ("floor", "non_padding"))
        if released:  # padding counts, so that it must be the release's; the head is not masked, which is said
            assert (recipe["optim"]["split_padding"], recipe["optim"]["pad_to_multiple_of"]) == (None, 1)
            assert "Differs from the release: the head's outputs are not masked." in (FOLDER / name).read_text()
        assert mask["components"] == ["query", "key", "value", "output", "ffn_in", "ffn_gate", "ffn_out"]
    else:
        assert "migu" not in given


@pytest.mark.parametrize("name", [name for name in FILES if "small" in name])
def test_small_recipes_train_16_rows_a_step_at_rank_8(name: str) -> None:
    recipe = plan(name).recipe
    assert recipe.optim.batch_size == 16
    assert recipe.parameters.get("rank", 8) == 8
    assert recipe.identity == "none"
    assert recipe.limit_train in (200, 1000)
    base = re.search(r"small_(\w+?)_migu", name)
    if base:
        assert recipe.parameters["migu"]["threshold"] == MIGU[base[1]][2]
    if name.startswith("am_lora"):
        assert recipe.parameters["sparsity"] == LAMBDAS[4 if "order4" in name else 1]


# Steps.


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose tasks have as many training rows as the published ones, and validation rows of their own."""
    folder = tmp_path_factory.mktemp("published")
    for task, rows in PUBLISHED_ROWS.items():
        (folder / task).mkdir()
        (folder / task / "task.json").write_text(json.dumps({"labels": ["yes", "no"]}))
        for split, number in {"train": rows, "validation": 2, "test": 2}.items():
            lines = (json.dumps({"text": f"{split} {row}", "label": ("yes", "no")[row % 2]}) for row in range(number))
            (folder / task / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    "name",
    ["o_lora/t5_large_order6.yaml", "migu/t5_large_ft_migu_order5.yaml", "am_lora/llama2_7b_order3.yaml"],
)
def test_steps_are_those_of_the_published_runs(name: str, published: Path) -> None:
    found = plan(name, f"data={published}")
    assert found.missing == []
    steps = {stage.name: stage.steps for stage in found.stages}
    assert {stage.name: stage.rows for stage in found.stages} == {task: PUBLISHED_ROWS[task] for task in steps}
    if "llama2" in name:
        assert steps == {"yahoo": 1250, "amazon": 625, "agnews": 500, "dbpedia": 1750}  # 8 rows a step
        return
    twice = "mnli" if "o_lora" in name else "wic"
    assert steps == {task: STEPS[task] * (2 if task == twice else 1) for task in steps}


def test_stored_rows_are_counted(published: Path) -> None:
    """MIGU's release draws floor(0.02 N): 280 rows of dbpedia, 100 of amazon, 200 of yahoo."""
    found = plan("migu/t5_large_lora_replay_migu_order1.yaml", f"data={published}")
    assert [stage.kept for stage in found.stages] == [0, 280, 380, 580]
    assert [stage.steps for stage in found.stages] == [219, 83, 163, 72]
    assert found.memory is not None
    assert found.memory.key == "rehearsal"


DATA = os.environ.get("NACRE_DATA")


@pytest.mark.skipif(DATA is None, reason="NACRE_DATA does not name the folder with the benchmark data")
def test_steps_on_the_real_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NACRE_DATA", str(DATA))
    found = plan("o_lora/t5_large_order6.yaml")
    assert found.missing == []
    assert found.recipe.data == str(Path(str(DATA)).resolve() / "long_sequence")
    assert {stage.name: stage.rows for stage in found.stages} == {
        stage.name: DELIVERED_ROWS[stage.name] for stage in found.stages
    }
    steps = {stage.name: stage.steps for stage in found.stages}
    assert (steps["dbpedia"], steps["amazon"], steps["agnews"], steps["cb"], steps["copa"]) == (32, 71, 57, 4, 5)
    assert steps["mnli"] == 2 * 43


# As a person calls them.


def test_a_recipe_from_the_root_of_the_repository(nacre: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parent)
    said = nacre("run", "recipes/am_lora/t5_large_order4.yaml", "--dry-run")
    assert said.code == 0
    assert "am_lora: AM-LoRA" in said.out
    (row,) = [line for line in said.out.splitlines() if line.startswith("rte ")]
    assert row.split() == ["rte", "unknown", "1", "0.0001", "unknown", "unknown", "0.3"]
    assert "Missing: data = $NACRE_DATA/long_sequence: the environment variable NACRE_DATA is not set" in said.out
    assert said.err == ""


def test_recipes_are_in_the_source_distribution() -> None:
    text = (FOLDER.parent / "pyproject.toml").read_text()
    assert '"recipes"' in text.partition("[tool.hatch.build.targets.sdist]")[2].partition("]")[0]
