"""The report of a run: one self-contained page, for a run that has ended, is still training, or has just started."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.preflight.good_run import png
from vlrl.algorithm.diagnostics import LOG_RATIO_EDGES, VARIANCE_EDGES
from vlrl.cli.main import app
from vlrl.report import charts, draw, page
from vlrl.report.page import write_report
from vlrl.report.read import RunData, read_run
from vlrl.run_file import dump_config, parse_config
from vlrl.telemetry.metrics import Key, step_metrics
from vlrl.telemetry.run_log import RunLog, rollout_lines
from vlrl.trainer import rollback
from vlrl.trainer.rollback import Rollback
from vlrl.types import Group, Prompt, Rollout, Row, Sample, Score, Status

HOSTILE = "</script><script>document.title='beaten'</script><!-- \u2028 <b>bold</b>"
MIXTURE = {"sums": {"weight": 3, "rows": "data/sums"}, "shapes": {"weight": 1, "rows": "data/shapes"}}


def write_run(folder: Path, steps: int = 3, *, ended: bool = True, mixture: dict = MIXTURE) -> Path:
    """A run's folder, through the log that training writes with."""
    raw = {"name": folder.name, "model": "tiny", "steps": 10, "prompts_per_step": 4, "mixture": mixture}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(parse_config(raw, "here")))
    (folder / "shape.png").write_bytes(png(64, 48))
    log = RunLog(folder)
    for step in range(1, steps + 1):
        metrics = {"reward/mean": step / 10, "time/step": 2.0, "time/generate": 1.5, "scoring/failed": 0.1}
        metrics |= {"scoring/failed/sums": 0.0, "scoring/failed/shapes": 0.4 * (step == 1)}
        metrics |= {f"policy/{name}/minibatch_2": 0.1 for name in ("gate_weight_pos", "gate_gap", "gate_bound", "ess")}
        metrics |= {f"policy/change/{part}/minibatch_2": 1e-4 for part in ("vision", "language")}
        if step % 2 == 0:
            metrics |= {"eval/sums": 0.3, "eval/mean": 0.3}
        log.step(step, step_metrics(metrics))
        log.rollouts(step, [line for slot in range(4) for line in rollout_lines(step, group(folder, slot, step))])
        bins = {"log_ratio": len(LOG_RATIO_EDGES) + 1, "log_ratio_var": len(VARIANCE_EDGES) + 1}
        log.histograms(step, {Key(f"{name}/pos", minibatch=2): [1] * count for name, count in bins.items()})
        log.tokens(step, [{"slot": 0, "sample": 1, "ratios": [0.9, 1.2], "weights": [0.99, 0.4], "pieces": ["a", "<b>"]}])
    if ended:
        values = {"before": 0.25, "after": 0.5, "before_interval": 0.1, "after_interval": 0.1, "rows": 20}
        values |= {"failed_before": 25, "failed_after": 0}
        values |= {"pass_before": {1: 0.25, 4: 0.75}, "pass_after": {1: 0.5, 4: 0.875}}
        log.summary({"steps": steps, "tasks": {"sums": values}, "mean": {"before": 0.25, "after": 0.5}})
    return folder


def group(folder: Path, slot: int, step: int) -> Group:
    task = "shapes" if slot == 3 else "sums"
    picture = [{"type": "image", "image": str(folder / "shape.png")}] if task == "shapes" else []
    boxes = {"width": 64, "height": 48, "boxes": [[1, 2, 30, 40]]} if picture else {}
    content = [*picture, {"type": "text", "text": f"Question {slot}. {HOSTILE}"}]
    row = Row(key=str(slot), answer="4", meta=boxes)
    prompt = Prompt(slot=slot, task=task, row=row, messages=({"role": "user", "content": content},), group_size=2)
    rollouts = [
        Rollout(
            slot=slot,
            sample=sample,
            tokens=(1, 2),
            logprobs=(0.0, 0.0),
            text=f"{HOSTILE} {sample} " + "x" * 9000 * sample,
            finish_reason="stop",
            weight_versions=(step, step),
        )
        for sample in range(2)
    ]
    scores = (Score(reward=1.0, parts={"boxed": 1.0}), Score(reward=0.0, status=Status.OK if slot else Status.ERROR))
    trained = zip(rollouts, scores, (1.0, -1.0), strict=True)
    samples = tuple(Sample(rollout=r, score=score, reward=score.reward, advantage=a) for r, score, a in trained)
    return Group(prompt=prompt, samples=samples)


def browsed(text: str) -> dict:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)


def test_the_page_needs_nothing_but_itself(tmp_path):
    run = write_run(tmp_path / "run")
    size = write_report([run], run / "report.html")
    text = (run / "report.html").read_text()
    assert size == len(text.encode()) < 8e6
    assert "default-src 'none'" in text
    own = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', own)


def test_no_text_of_a_rollout_becomes_markup(tmp_path):
    write_report([write_run(tmp_path / "run")], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert HOSTILE[:20] not in text and "<b>bold" not in text
    (first, *_) = browsed(text)["runs"][0]["groups"]
    assert HOSTILE in first["prompt"] and HOSTILE in first["rollouts"][0]["response"]


def test_every_rollout_can_be_browsed_with_its_score_picture_boxes_and_tokens(tmp_path):
    write_report([write_run(tmp_path / "run")], tmp_path / "report.html")
    (run,) = browsed((tmp_path / "report.html").read_text())["runs"]
    assert len(run["groups"]) == 12 and run["of"] == 24
    sums, shapes = run["groups"][0], run["groups"][3]
    assert shapes["boxes"] == {"width": 64, "height": 48, "boxes": [[1, 2, 30, 40]]} and shapes["answer"] == "4"
    assert run["images"][shapes["images"][0]].startswith("data:image/png;base64,")
    assert [each["status"] for each in sums["rollouts"]] == ["ok", "error"]
    assert sums["rollouts"][1]["tokens"]["pieces"] == ["a", "<b>"]
    assert len(sums["rollouts"][1]["response"]) < 7000, "a long response is shown by its ends"


def test_a_long_run_s_page_keeps_the_rollouts_of_evenly_spaced_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("vlrl.report.read.MOST_ROLLOUTS", 20)
    data = read_run(write_run(tmp_path / "run", steps=10))
    assert data.num_rollouts == 80
    assert sorted({lines[0]["step"] for lines in data.groups}) == [4, 8, 10]
    assert {step for step, _, _ in data.traces} == {4, 8, 10}
    assert set(data.rewards["sums"]) == set(range(1, 11)), "the curves have them all"


def test_a_step_s_interval_is_that_of_its_groups_means(tmp_path):
    reward = read_run(write_run(tmp_path / "run")).rewards["sums"][1]
    means = [1.0, 0.5, 0.5]  # one of the first group's two has no verdict
    spread = (sum((mean - sum(means) / 3) ** 2 for mean in means) / 2) ** 0.5
    assert (reward.mean, reward.rows) == (pytest.approx(2 / 3), 3)
    assert reward.interval == pytest.approx(4.3027 * spread / math.sqrt(3), rel=1e-4)


def test_the_share_of_failed_verdicts_is_shown_for_the_run_and_for_the_worst_task(tmp_path):
    write_report([write_run(tmp_path / "run", steps=4)], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<dt>without a verdict</dt><dd>10.0%, of shapes 10.0%</dd>" in text
    assert "<td>25 and 0</td>" in text


@pytest.mark.parametrize(
    ("steps", "caption", "value"),
    [
        (60, "reward, means of the first and the last 6 steps", "0.350 → 5.750"),
        (10, "reward, means of the first and the last 5 steps", "0.300 → 0.800"),
        (1, "reward, first and last step", "0.100 → 0.100"),
    ],
)
def test_the_reward_on_top_compares_several_steps_and_says_how_many(tmp_path, steps, caption, value):
    text = page.report([read_run(write_run(tmp_path / "run", steps=steps))])
    assert f"<dt>{caption}</dt><dd>{value}</dd>" in text


def test_a_reward_composed_of_parts_is_described_as_not_the_accuracy(tmp_path):
    assert "is not their accuracy" not in page.report([read_run(write_run(tmp_path / "run"))])
    rewards = {
        "sums": {"weights": {"reward": 0.9, "boxed": 0.1}, "required_part": "boxed"},
        "shapes": {"length_penalty": 0.5},
    }
    mixture = {task: values | {"reward": rewards[task]} for task, values in MIXTURE.items()}
    text = page.report([read_run(write_run(tmp_path / "composed", mixture=mixture))])
    assert "sums: 0.9 reward + 0.1 boxed, or 0 if boxed is below 1; shapes: reward, less up to 0.5 for the length." in text


def test_a_reward_below_0_is_in_the_figure(tmp_path):
    data = read_run(write_run(tmp_path / "run"))
    assert charts.reward([data]).layout.yaxis.range == (-0.02, 1.02)
    data.rewards["sums"][2] = replace(data.rewards["sums"][2], mean=-0.5)
    assert charts.reward([data]).layout.yaxis.range == (-0.52, 1.02)


def run_with(folder: Path, **metrics: list[float]) -> RunData:
    """A run with the given metrics, one value per step."""
    data = read_run(write_run(folder, steps=len(next(iter(metrics.values())))))
    for name, values in metrics.items():
        for line, value in zip(data.metrics, values, strict=True):
            line[name.replace("__", "/")] = value
    return data


def test_an_axis_is_wide_enough_that_noise_does_not_look_like_a_trend(tmp_path):
    data = run_with(tmp_path / "run", rollout__tokens__sums=[6.0, 6.005, 6.0], rollout__tokens__shapes=[6.0, 9.0, 8.0])
    figure = charts.lengths([data])
    draw.widen(figure)
    low, high = figure.layout.yaxis.range
    assert high - low == pytest.approx(0.055 * 6.005) and (low + high) / 2 == pytest.approx(6.0025)
    assert figure.layout.yaxis2.range is None, "plotly's own shows what varies"


def test_a_logarithmic_axis_has_a_power_of_ten_among_its_ticks(tmp_path):
    figure = charts.changes(read_run(write_run(tmp_path / "run")))
    draw.widen(figure)
    assert figure.layout.yaxis.range == pytest.approx((-4.5, -3.5))


def test_every_part_of_a_step_s_time_has_a_colour_of_its_own(tmp_path):
    data = run_with(tmp_path / "run", **{f"time__part_{number}": [number + 1.0] * 3 for number in range(12)})
    traces = charts.step_time(data).data
    assert len({trace.line.color for trace in traces}) == len(traces) == 8
    total = sum(trace.y[0] for trace in traces)
    assert total == pytest.approx(sum(range(1, 13)) + 1.5), "the others are not lost"


def test_what_is_sampled_beside_a_step_is_shown_as_the_time_it_saves(tmp_path):
    data = run_with(
        tmp_path / "run", time__sampling_ahead=[0.5] * 3, ahead__generate_s=[1.0, 3.0, 4.0], ahead__score_s=[0.0, 0.5, 0.5]
    )
    *_, alone = charts.step_time(data).data
    assert alone.name == "without sampling beside the step"
    assert list(alone.y) == pytest.approx([2.0 + 3.5 - 0.5, 2.0 + 4.5 - 0.5])
    waits = run_with(tmp_path / "waits", time__generate=[1.0] * 3)
    assert alone.name not in {trace.name for trace in charts.step_time(waits).data}


def test_nine_runs_have_nine_colours(tmp_path):
    figure = charts.lengths([run_with(tmp_path / f"run{number}", rollout__tokens__sums=[1.0]) for number in range(9)])
    assert len({trace.line.color for trace in figure.data if trace.mode == "lines"}) == 9


def test_small_numbers_on_an_axis_differ_and_have_no_prefix(tmp_path):
    data = read_run(write_run(tmp_path / "run"))
    figures = [charts.histograms(data), charts.mixture([data]), charts.lengths([data])]
    assert {figure.layout.yaxis.exponentformat for figure in figures} == {"power"}
    assert [figure.layout.yaxis.tickformat for figure in figures] == [".3~p", ".3~p", None]


@pytest.mark.parametrize(
    ("steps", "says"), [(8, "Each step without averaging."), (20, "lines their moving average over 5 steps.")]
)
def test_a_page_says_how_its_lines_are_averaged_and_shows_each_step(tmp_path, steps, says):
    data = [read_run(write_run(tmp_path / "run", steps=steps))]
    text = page.report(data)
    assert says in text and ("Lines are moving averages over 5 steps." in text) == (steps == 20)
    values = [trace.y for trace in charts.reward(data).data if trace.mode in ("markers", "lines") and trace.y is not None]
    own = [found.mean for _, found in sorted(data[0].rewards["sums"].items())]
    assert list(own) in [list(each) for each in values]


def test_the_rollouts_are_first_in_the_menu(tmp_path):
    write_report([write_run(tmp_path / "run")], tmp_path / "report.html")
    menu = re.search(r"<nav.*?</nav>", (tmp_path / "report.html").read_text(), re.DOTALL)[0]
    assert re.findall(r'href="#([^"]+)"', menu)[0] == "rollouts"


def test_one_page_can_show_several_runs_also_one_that_is_still_training_or_has_no_step(tmp_path):
    runs = [
        write_run(tmp_path / "one"),
        write_run(tmp_path / "two", ended=False),
        write_run(tmp_path / "three", steps=0, ended=False),
    ]
    with (runs[1] / "rollouts.jsonl").open("a") as file:
        file.write('{"step": 4, "task": "su')
    write_report(runs, tmp_path / "report.html")
    assert [run["name"] for run in browsed((tmp_path / "report.html").read_text())["runs"]] == ["one", "two", "three"]


def go_back(folder: Path, to_step: int) -> None:
    """What a rollback of the run in `folder` leaves: its record, and its last steps set aside."""
    log = RunLog(folder)
    last = read_run(folder).metrics[-1]["step"]
    record = Rollback(
        number=1,
        called_at=last,
        to_step=to_step,
        sentences=(f"reward of sums fell to 0.1 {HOSTILE}",),
        tasks=("sums",),
        change="the learning rate times 0.5, new sampling seeds",
    )
    rollback.write_record(folder, [record])
    log.set_aside(to_step, folder / rollback.LEFT_BEHIND / "1")
    log.truncate(to_step)


def test_a_run_that_went_back_shows_why_and_the_steps_that_it_left_behind(tmp_path):
    run = write_run(tmp_path / "run", steps=6)
    go_back(run, 4)
    (left,) = read_run(run).left_behind
    assert [line["step"] for line in left.metrics] == [5, 6]
    traces = page.charts.lengths([read_run(run)]).data
    assert [list(trace.x) for trace in traces if trace.opacity] == [[4, 5, 6]] * 2, "from the step that it went back to"
    write_report([run], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<td>6</td><td>4</td><td>reward of sums fell to 0.1" in text and HOSTILE[:20] not in text


def test_a_picture_that_is_gone_is_left_out(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "shape.png").unlink()
    write_report([run], tmp_path / "report.html")
    assert browsed((tmp_path / "report.html").read_text())["runs"][0]["images"] == [""]


def test_a_folder_that_is_not_a_run_s_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2 and "is not a run's folder: it has no config.yaml" in result.output
