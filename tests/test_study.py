"""Studies: a grid of runs that resumes after an interruption, and the table at its end."""

import json
import re
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vlrl.study
from vlrl.cli.main import app
from vlrl.common.signals import Interrupted
from vlrl.run_file import load_config
from vlrl.study import Tune, collapsed, load_study, markdown, read_arms, run_study, table

FILE = """
run: configs/cpu.yaml
settings: [steps=3]
arms: {soft: [algorithm.tau_neg=1.05], hard: [algorithm.gate=grpo]}
seeds: [4, 7]
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "two.yaml").write_text(FILE)
    return load_study(tmp_path / "two.yaml")


def write_run(folder, rewards):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": n, "reward/mean": r}) + "\n" for n, r in enumerate(rewards, 1))
    )


def test_every_arm_is_run_with_every_seed_and_failed_runs_are_returned(study, tmp_path, monkeypatch):
    commands = []

    class Begun:
        def __init__(self, command, **_):
            commands.append(command[3:])
            self.exit_code = int("seed=7" in command and "algorithm.gate=grpo" in command)

        def poll(self):
            self.returncode = self.exit_code
            return self.returncode

    monkeypatch.setattr(vlrl.study.subprocess, "Popen", Begun)
    assert run_study(study, tmp_path / "runs", ["prompts_per_step=8"]) == ["hard-7"]
    assert [command[-2] for command in commands] == ["name=soft-4", "name=hard-4", "name=soft-7", "name=hard-7"]
    assert commands[0] == [
        "train", "configs/cpu.yaml", "steps=3", "prompts_per_step=8", "algorithm.tau_neg=1.05", "seed=4", "name=soft-4",
        f"runs={tmp_path / 'runs'}",
    ]  # fmt: skip


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_no_more_runs_than_asked_for_go_at_a_time(study, tmp_path, monkeypatch, jobs):
    running, most = [], []

    class Begun:
        returncode = 0

        def __init__(self, *_, **__):
            running.append(self)
            most.append(len(running))

        def poll(self):
            return running.remove(self) or 0 if self is running[-1] else None

    monkeypatch.setattr(vlrl.study.subprocess, "Popen", Begun)
    assert run_study(study, tmp_path / "runs", jobs=jobs) == []
    assert len(most) == 4 and max(most) == min(jobs, 4) and not running


def test_each_arm_is_compared_at_the_value_that_was_best_for_it_with_other_seeds(study, tmp_path, monkeypatch):
    study = study.model_copy(update={"tune": Tune(setting="policy.lr", values=(1e-4, 2e-4), seeds=(0, 1))})
    final = {"soft-0.0001": 0.2, "soft-0.0002": 0.3, "hard-0.0001": 0.5, "hard-0.0002": 0.4}
    commands = {}

    class Begun:
        returncode = 0

        def __init__(self, command, **_):
            name = next(each for each in command if each.startswith("name=")).removeprefix("name=")
            commands[name] = command
            write_run(tmp_path / name, [final.get(name.rpartition("-")[0], 0.6)] * 12)

        def poll(self):
            return 0

    monkeypatch.setattr(vlrl.study.subprocess, "Popen", Begun)
    assert run_study(study, tmp_path) == []
    assert list(commands)[:4] == ["soft-0.0001-0", "hard-0.0001-0", "soft-0.0002-0", "hard-0.0002-0"] and len(commands) == 12
    assert "policy.lr=0.0002" in commands["soft-7"] and "policy.lr=0.0001" in commands["hard-7"]
    written = vlrl.study.write_results(study, tmp_path)
    assert "| soft | 0.0002 | 2 | 0.600 ±" in written and "| hard | 0.500 | 0.400 |" in written


def test_an_arm_of_which_no_choosing_run_has_a_step_is_left_out(study, tmp_path, monkeypatch):
    study = study.model_copy(update={"tune": Tune(setting="policy.lr", values=(1e-4, 2e-4), seeds=(0,))})
    names = []

    class Begun:
        def __init__(self, command, **_):
            names.append(next(each for each in command if each.startswith("name=")).removeprefix("name="))
            self.returncode = int(names[-1].startswith("hard"))
            if not self.returncode:
                write_run(tmp_path / names[-1], [0.5])

        def poll(self):
            return self.returncode

    monkeypatch.setattr(vlrl.study.subprocess, "Popen", Begun)
    assert run_study(study, tmp_path) == ["hard-0.0001-0", "hard-0.0002-0"]
    assert names[4:] == ["soft-4", "soft-7"]


def test_an_arm_whose_choosing_runs_are_gone_has_no_value_in_the_table(study, tmp_path):
    study = study.model_copy(update={"tune": Tune(setting="policy.lr", values=(1e-4, 2e-4), seeds=(0,))})
    write_run(tmp_path / "soft-4", [0.5])
    assert "| soft |  | 1 | 0.500 ±" in vlrl.study.write_results(study, tmp_path)


def test_a_metric_that_the_file_names_is_in_the_table(study, tmp_path):
    study = study.model_copy(update={"metrics": {"mean reward": "reward/mean", "age": "rollout/updates_since"}})
    write_run(tmp_path / "soft-4", [0.9] * 3 + [0.25] * 10)
    head, soft = table(study, read_arms(study, tmp_path), {})
    assert head[-2:] == ("mean reward", "age") and soft[-2:] == ("0.2500", "nan")


def test_a_study_that_is_interrupted_lets_its_run_save_before_it_ends(study, tmp_path, monkeypatch):
    calls = []

    class Begun:
        def __init__(self, command, **_):
            pass

        def poll(self):
            raise Interrupted(signal.SIGTERM)

        def wait(self):
            calls.append("wait")

        def terminate(self):
            calls.append("terminate")

    monkeypatch.setattr(vlrl.study.subprocess, "Popen", Begun)
    with pytest.raises(Interrupted):
        run_study(study, tmp_path / "runs", jobs=2)
    assert calls == ["terminate", "terminate", "wait", "wait"]


def test_arms_are_compared_with_the_first_seed_by_seed(study, tmp_path):
    for seed, level in ((4, 0.2), (7, 0.8)):
        write_run(tmp_path / f"soft-{seed}", [level] * 20)
        write_run(tmp_path / f"hard-{seed}", [level + 0.1 + 0.001 * seed] * 20)
    head, rule, soft, hard = markdown(table(study, read_arms(study, tmp_path), {})).splitlines()
    assert soft.startswith("| soft | 2 | 0.500 ±") and soft.endswith("|  |  |  | 0 |")
    assert re.match(r"\| hard \| 2 \| 0\.60\d ± \d\.\d+ \| \+0\.10\d ± 0\.0\d\d \| 0\.0\d\d \|  \| 0 \|", hard), hard
    assert rule.count("---") == head.count("|") - 1


def test_arms_that_lack_different_seeds_are_compared_over_the_seeds_that_both_have(study, tmp_path):
    study = study.model_copy(update={"seeds": (4, 7, 9)})
    for arm, seeds in (("soft", {4: 0.2, 7: 0.8}), ("hard", {7: 0.9, 9: 0.1})):
        for seed, level in seeds.items():
            write_run(tmp_path / f"{arm}-{seed}", [level] * 12)
    assert table(study, read_arms(study, tmp_path), {})[2][3].startswith("+0.100 ±")


def test_a_run_that_is_being_written_is_read_up_to_its_last_whole_step(study, tmp_path):
    write_run(tmp_path / "soft-4", [0.1, 0.2])
    with (tmp_path / "soft-4/metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    assert [line["step"] for line in read_arms(study, tmp_path)["soft"][4].metrics] == [1, 2]


def test_the_last_evaluation_of_each_run_is_in_the_table(study, tmp_path):
    write_run(tmp_path / "soft-4", [0.1, 0.2])
    lines = [{"step": 3, "reward/mean": 0.3, "eval/mean": 0.4}, {"step": 4, "reward/mean": 0.3, "eval/mean": 0.25}]
    with (tmp_path / "soft-4/metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in [*lines, {"step": 5, "reward/mean": 0.3}])
    assert table(study, read_arms(study, tmp_path), {})[1][5].startswith("0.250")


def test_the_evaluation_at_a_run_s_end_is_its_last_one(study, tmp_path):
    write_run(tmp_path / "soft-4", [0.1, 0.2])
    with (tmp_path / "soft-4/metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, "reward/mean": 0.3, "eval/mean": 0.4}) + "\n")
    (tmp_path / "soft-4/summary.json").write_text('{"mean": {"before": 0.1, "after": 0.5}}')
    assert table(study, read_arms(study, tmp_path), {})[1][5].startswith("0.500")


def test_a_collapse_is_an_end_under_half_of_the_best():
    assert collapsed([0.8] * 20 + [0.1] * 20) and not collapsed([0.8] * 40) and not collapsed([0.1] * 20 + [0.8] * 20)


def test_a_study_that_has_begun_has_its_table_and_page(study, tmp_path):
    write_run(tmp_path / "soft-4", [0.1, 0.2, 0.3])
    written = vlrl.study.write_results(study, tmp_path)
    assert (tmp_path / "study.md").read_text() == written and written.count("\n") == 3
    assert "soft" in (tmp_path / "study.html").read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (FILE.replace("arms", "arm"), "arm.*[Ee]xtra inputs"),
        (FILE.replace(", hard: [algorithm.gate=grpo]", ""), "two arms or more"),
        (FILE.replace("[4, 7]", "[a]"), "seeds"),
        (FILE + "tune: {setting: policy.lr, values: [1.0e-4], seeds: [0]}", "two values or more"),
        (FILE + "tune: {setting: policy.lr, values: [1.0e-4, 2.0e-4], seeds: [4]}", r"both have the seeds \[4\]"),
    ],
)
def test_an_invalid_study_is_refused_with_a_sentence(tmp_path, text, says):
    (tmp_path / "bad.yaml").write_text(text)
    result = CliRunner().invoke(app, ["study", str(tmp_path / "bad.yaml"), "--out", str(tmp_path / "runs")])
    assert result.exit_code == 2 and re.search(says, result.output), result.output


def test_the_studies_that_ship_can_be_read():
    for path in sorted(Path("configs/studies").glob("*.yaml")):
        study = load_study(path)
        for overrides in study.arms.values():
            load_config(study.run, (*study.settings, *overrides))
