"""The run file: strict about keys and types, overridden from the command line, and kept complete."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vlrl.config import Config
from vlrl.run_file import dump_config, load_config, parse_config

SHIPPED = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SMALL = {
    "name": "run",
    "model": "models/tiny",
    "steps": 10,
    "prompts_per_step": 8,
    "mixture": {"sums": {"weight": 1, "rows": "data/sums"}},
}


def parsed(**settings) -> Config:
    return parse_config(SMALL | settings, "run.yaml")


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_run_file_is_usable(path):
    config = load_config(path)
    assert parse_config(yaml.safe_load(dump_config(config)), str(path)) == config


@pytest.mark.parametrize(
    ("place", "typo", "nearest"),
    [
        ([], "prompt_per_step", "prompts_per_step"),
        (["algorithm"], "tau_negative", "tau_neg"),
        (["mixture", "sums"], "wieght", "weight"),
        (["mixture", "rows"], "evalrows", "eval_rows"),  # a task that is called like a setting
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(place, typo, nearest):
    raw = {**SMALL, "mixture": dict(SMALL["mixture"])}
    node = raw
    for name in place:
        node[name] = dict(node.get(name, {"weight": 1, "rows": "data"} if place[0] == "mixture" else {}))
        node = node[name]
    node[typo] = 1
    with pytest.raises(
        ValueError, match=rf"^run.yaml: {'.'.join([*place, typo])}: unknown key '{typo}'; did you mean '{nearest}'?"
    ):
        parse_config(raw, "run.yaml")


def test_every_fault_is_told_on_a_line_of_its_own():
    with pytest.raises(ValueError) as refusal:
        parsed(steps=0, seed="x", policy={"lr": -1})
    lines = str(refusal.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["steps", "seed", "policy.lr"]


def test_contradictions_are_told_together():
    with pytest.raises(ValueError) as refusal:
        parsed(prompts_per_step=9, policy={"dtype": "bfloat16", "zero_stage": 0})
    lines = str(refusal.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["run.yaml", "prompts_per_step"], ["run.yaml", "policy.zero_stage"]]


def test_a_mixture_without_tasks_is_refused():
    with pytest.raises(ValueError, match="mixture: names no task"):
        parsed(mixture={})


@pytest.mark.parametrize("text", ["1e-6", "1.0e-6", "0.000001"])
def test_small_numbers_are_understood_however_they_are_written(run_file, text):
    run_file.write_text(f"{run_file.read_text()}policy: {{lr: {text}}}\n")
    assert load_config(run_file).policy.lr == 1e-6
    assert load_config(run_file, (f"policy.lr={text}",)).policy.lr == 1e-6


def test_overrides_replace_add_and_reach_below_a_mapping(run_file):
    config = load_config(
        run_file,
        ("steps=20", "policy.deepspeed.zero_optimization.offload_optimizer={device: cpu}", "mixture.sums.group_size=4"),
    )
    assert config.steps == 20
    assert config.policy.deepspeed == {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    assert (config.group_size("sums"), config.mixture["sums"].rows) == (4, Path("data/sums"))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("steps", "as steps=value"),
        ("=3", "as key=3"),
        ("--steps=3", "without dashes: steps=3"),
        ("steps.more=3", "'steps' is a single value"),
        ("model=[", "is not YAML"),
    ],
)
def test_an_override_that_cannot_be_applied_is_named(run_file, override, says):
    with pytest.raises(ValueError) as refusal:
        load_config(run_file, (override,))
    assert repr(override) in str(refusal.value)
    assert says in str(refusal.value)


@pytest.mark.parametrize("overrides", [("steps", "=", "4"), ("steps", "=4"), ("steps=", "4")])
def test_blanks_around_the_sign_are_refused_with_the_setting_as_it_should_be(run_file, overrides):
    with pytest.raises(ValueError, match="without blanks around the =, as steps=4$"):
        load_config(run_file, overrides)


def test_a_key_that_is_there_twice_is_refused_with_its_line(run_file):
    lines = run_file.read_text().rstrip().splitlines()
    run_file.write_text("\n".join([*lines, "steps: 14"]))
    with pytest.raises(ValueError, match=rf"run.yaml:{len(lines) + 1}: the key 'steps' is there twice"):
        load_config(run_file)


def test_the_hint_for_a_run_s_folder_names_its_trained_model(run_file, tmp_path):
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(ValueError, match=rf"did you mean '{run}/config.yaml'.*for its trained model add model={run}/model"):
        load_config(run)


def test_a_mistyped_run_file_is_told_the_nearest(run_file):
    with pytest.raises(ValueError, match=f"did you mean '{run_file}'"):
        load_config(run_file.with_name(run_file.stem + "s.yaml"))


@pytest.mark.parametrize(("text", "says"), [("name: [", "is not YAML"), ("- a", "holds list"), ("", "holds NoneType")])
def test_a_file_that_is_no_run_file_gets_one_line(run_file, text, says):
    run_file.write_text(text)
    with pytest.raises(ValueError, match=says) as refusal:
        load_config(run_file)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_missing_run_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no run file .*gone.yaml"):
        load_config(tmp_path / "gone.yaml")


@given(
    gate=st.sampled_from(["sapo", "grpo", "gspo"]),
    lr=st.floats(1e-9, 1.0),
    seed=st.integers(0, 2**40),
    folders=st.lists(st.sampled_from(["tasks", "more/tasks"]), min_size=1, max_size=2),
    tokens=st.none() | st.integers(1, 4096),
)
def test_a_dumped_config_reads_back_as_itself(gate, lr, seed, folders, tokens):
    mixture = {"sums": {"weight": 0.1, "rows": "data/sums", "max_new_tokens": tokens}}
    config = parsed(algorithm={"gate": gate}, policy={"lr": lr}, seed=seed, task_folders=folders, mixture=mixture)
    assert parse_config(yaml.safe_load(dump_config(config)), "run.yaml") == config


def test_each_gate_clips_where_its_paper_does():
    bounds = {gate: parsed(algorithm={"gate": gate}).algorithm for gate in ("grpo", "gspo")}
    assert (bounds["grpo"].clip_low, bounds["grpo"].clip_high) == (0.2, 0.27)
    assert (bounds["gspo"].clip_low, bounds["gspo"].clip_high) == (3e-4, 4e-4)
    assert parsed(algorithm={"gate": "gspo", "clip_low": 1e-3}).algorithm.clip_low == 1e-3


def test_one_mini_batch_is_for_gates_that_do_not_need_two():
    with pytest.raises(ValueError, match="SAPO's gate never acts"):
        parsed(algorithm={"minibatches": 1})
    assert parsed(algorithm={"gate": "grpo", "minibatches": 1}).algorithm.minibatches == 1


def test_a_task_overrides_the_sampling_for_itself_alone():
    other = {"weight": 1, "rows": "data/long", "group_size": 4, "max_new_tokens": 99}
    config = parsed(mixture=SMALL["mixture"] | {"long": other}, sampling={"group_size": 8, "max_new_tokens": 7})
    assert [(config.group_size(task), config.max_new_tokens(task)) for task in ("sums", "long")] == [(8, 7), (4, 99)]


def test_lora_has_ten_times_the_rate_unless_the_run_file_says_one():
    assert (parsed().lora, parsed().policy.lr) == (None, 1e-6)
    config = parsed(lora={"rank": 16})
    assert (config.lora.alpha, config.lora.targets, config.lora.sync, config.policy.lr) == (32, None, "auto", 1e-5)
    assert parse_config(yaml.safe_load(dump_config(config)), "run.yaml") == config
    assert parsed(lora={"rank": 16}, policy={"lr": "2e-6"}).policy.lr == 2e-6


@pytest.mark.parametrize(
    ("lora", "more", "sentence"),
    [
        ({"rank": 0}, {}, "lora.rank: Input should be greater than or equal to 1"),
        ({"rank": 8, "targets": ["attn"]}, {}, "lora.targets.0: Input should be 'attention', 'mlp', 'gdn', 'experts'"),
        ({"rank": 8, "targets": []}, {}, "lora.targets: Tuple should have at least 1 item"),
        ({"rank": 8}, {"policy": {"expert_parallel": 2, "zero_stage": 1}}, "expert_parallel: cannot be used with lora, got 2"),
        ({"rank": 8, "targets": ["vision"]}, {"policy": {"freeze_vision": True}}, "lora.targets: vision is trained"),
        ({"rank": 8, "targets": ["experts"], "sync": "adapter"}, {}, "lora.sync: vLLM serves no adapters of experts; use"),
    ],
)
def test_what_lora_cannot_do_is_refused(lora, more, sentence):
    with pytest.raises(ValueError, match=f"^run.yaml: .*{sentence}"):
        parsed(lora=lora, **more)
