"""A run's model card: metadata that the hub reads, and a page that says what the model was trained on, how, and to what effect.

Equal runs give equal cards: no time of day is in it.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vlrl.config import TARGETS_WITHOUT_SERVING
from vlrl.hub.finished import FinishedRun, TaskData
from vlrl.hub.redaction import public_command, public_settings, redacted

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values of --max-lora-rank
_PIPELINE = "image-text-to-text"


def card(run: FinishedRun, *, repo: str, branch: str, licence: str, curves: Sequence[str]) -> str:
    """The text of README.md. repo: OWNER/NAME, for the commands in it; licence: the hub's name of one, or empty."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    config, made_with = run.config, run.made_with
    run_file = public_settings(config)
    pages = Environment(loader=PackageLoader("vlrl", "hub"), undefined=StrictUndefined, keep_trailing_newline=True)
    text = pages.get_template("card.md").render(
        metadata=_metadata(run, repo, licence),
        title=repo.rpartition("/")[2],
        adapter=run.kind == "adapter",
        config=config,
        base=run.base,
        base_link=f"[{run.base}](https://huggingface.co/{run.base})" if run.base else f"`{redacted(config.model)}`",
        repo=repo,
        revision=f', revision="{branch}"' if branch else "",
        serve=_serve(run, repo, branch),
        unserved=sorted(TARGETS_WITHOUT_SERVING & set(config.lora.targets or ()))
        if config.lora and run.kind == "adapter"
        else [],
        prompted=[task for task, mix in config.mixture.items() if mix.system or mix.instruction],
        evaluation=list(_evaluation_rows(run)),
        sampled=_sampled(run),
        data=[_data_row(each) for each in run.data],
        settings=list(_settings(run)),
        rollbacks=run.summary.get("rollbacks", []),
        made_with=made_with,
        parts=", ".join(f"{name} {version}" for name, version in made_with.get("versions", {}).items()),
        hardware=_hardware(made_with),
        command=public_command(made_with.get("arguments", [])),
        curves=curves,
        run_file=run_file,
        fence="`" * (max(map(len, re.findall("`+", run_file)), default=2) + 1),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _metadata(run: FinishedRun, repo: str, licence: str) -> str:
    from huggingface_hub import ModelCardData

    config, is_adapter = run.config, run.kind == "adapter"
    return ModelCardData(
        base_model=run.base or None,
        base_model_relation=("adapter" if is_adapter else "finetune") if run.base else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=_PIPELINE,
        license=licence or None,
        datasets=list(dict.fromkeys(each.hub_name for each in run.data if each.hub_name)) or None,
        tags=["vlrl", "reinforcement-learning", config.algorithm.gate, *(["lora"] if config.lora else [])],
        model_name=repo.rpartition("/")[2],
        eval_results=list(_results(run)) or None,
    ).to_yaml()


def _results(run: FinishedRun) -> Iterator[Any]:
    """The evaluation after the run, as the hub's model-index has it."""
    from huggingface_hub import EvalResult

    data = {each.task: each for each in run.data}
    for task, values in run.summary["tasks"].items():
        if math.isfinite(float(values["after"])):
            yield EvalResult(
                task_type=_PIPELINE,
                task_name=task,
                dataset_type=data[task].hub_name or task,
                dataset_name=f"{task}, held-out rows",
                dataset_revision=data[task].revision or None,
                metric_type="accuracy",
                metric_name="mean score of the task's verifier",
                metric_value=round(values["after"], 4),
            )


def _serve(run: FinishedRun, repo: str, branch: str) -> str:
    if run.kind == "model":
        return f"vllm serve {repo}{f' --revision {branch}' if branch else ''}"
    assert run.config.lora
    rank = min(each for each in _VLLM_RANKS if each >= min(run.config.lora.rank, _VLLM_RANKS[-1]))
    name = repo.rpartition("/")[2]
    return f"vllm serve {run.base} --enable-lora --max-lora-rank {rank} --lora-modules {name}={repo}"


def _evaluation_rows(run: FinishedRun) -> Iterator[list[str]]:
    for task, values in run.summary["tasks"].items():
        before, after = float(values["before"]), float(values["after"])
        halves = [float(values[f"{at}_interval"]) for at in ("before", "after")]
        cells = [_estimate(mean, half) for mean, half in zip((before, after), halves, strict=True)]
        yield [task, *cells, _estimate(after - before, math.hypot(*halves), sign="+"), str(values["rows"])]


def _estimate(mean: float, half: float, sign: str = "") -> str:
    """ "0.250 ± 0.100", or "0.250" if the interval is not known."""
    return f"{mean:{sign}.3f} ± {half:.3f}" if math.isfinite(half) else f"{mean:{sign}.3f}"


def _sampled(run: FinishedRun) -> str:
    """ "4 samples for each at temperature 1, top_p 1"."""
    settings = run.config.evaluation
    count = _range(mix.eval_samples or settings.samples for mix in run.config.mixture.values())
    limit = f", top_k {settings.top_k}" if settings.top_k else ""
    noun = "sample" if count == "1" else "samples"
    return f"{count} {noun} of each at temperature {settings.temperature:g}, top_p {settings.top_p:g}{limit}"


def _range(values: Iterable[int]) -> str:
    """ "8", or "8 to 34" if the tasks' values differ."""
    different = sorted(set(values))
    return str(different[0]) if len(different) == 1 else f"{different[0]} to {different[-1]}"


def _data_row(data: TaskData) -> list[str]:
    hub = f"[{data.hub_name}](https://huggingface.co/datasets/{data.hub_name})" if data.hub_name else ""
    source = hub or data.source
    rows = [str(number) if number is not None else "" for number in (data.num_rows, data.num_eval_rows)]
    revision = data.revision and f"`{data.revision[:12]}`"
    cells = [data.task, f"{data.share:.1%}", source, revision, *rows, data.fingerprint, data.licence, data.file]
    return [" ".join(cell.replace("|", "\\|").split()) for cell in cells]


def _settings(run: FinishedRun) -> Iterator[tuple[str, str]]:
    """The settings that decide what was trained, by the run file's names."""
    config = run.config
    algorithm, policy, lora = config.algorithm, config.policy, config.lora
    yield "trained", f"LoRA, rank {lora.rank}, alpha {lora.alpha}" if lora else "all weights"
    if policy.freeze_vision:
        yield "vision tower", "frozen"
    yield "algorithm.gate", algorithm.gate
    if algorithm.gate == "sapo":
        yield "algorithm.tau_pos, tau_neg", f"{algorithm.tau_pos:g}, {algorithm.tau_neg:g}"
    made = run.summary["steps"]
    yield "steps", f"{made}{'' if made == config.steps else f' of {config.steps}'}, each of {algorithm.minibatches} updates"
    yield "prompts_per_step", str(config.prompts_per_step)
    yield "group_size", _range(map(config.group_size, config.mixture))
    yield "max_new_tokens", _range(map(config.max_new_tokens, config.mixture))
    yield "sampling.temperature", f"{config.sampling.temperature:g}"
    yield "policy.lr", f"{policy.lr:g}"
    yield "policy.dtype", policy.dtype
    yield "algorithm.kl_coefficient", f"{algorithm.kl_coefficient:g}"
    if config.coldstart.steps:
        yield "coldstart.steps", f"{config.coldstart.steps} supervised steps before, at {config.coldstart.lr:g}"
    yield "seed", str(config.seed)


def _hardware(made_with: dict[str, Any]) -> str:
    """ "8 x NVIDIA H200", "16 x NVIDIA H200 on 2 hosts" or "CPUs, 2 processes"."""
    if not made_with:
        return ""
    ranks, hosts = made_with["ranks"], -(-made_with["ranks"] // made_with["ranks_per_host"])
    on_hosts = f" on {hosts} hosts" if hosts > 1 else ""
    if made_with["device"] == "CPU":
        return f"CPUs, {ranks} {'process' if ranks == 1 else 'processes'}{on_hosts}"
    return f"{ranks} x {made_with['device']}{on_hosts}"
