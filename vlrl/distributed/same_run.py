"""What may change when a run resumes: its settings, data and task files are compared with those of the checkpoint."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

LAYOUT = (
    *("world_size", "policy.zero_stage", "policy.expert_parallel", "policy.offload_optimizer", "engine.tensor_parallel"),
    *("lora.sync", "rollout.place", "rollout.replicas", "rollout.hosts"),
)
"""How a run lies on its ranks, and how its engine holds adapters. With another layout a step computes the same to last bits, in
which sums have another order."""

_OF_A_SERVICE = ("url", "key_env", "timeout_s", "retries", "concurrency", "max_requests", "max_tokens", "device", "threads")
MAY_DIFFER = (
    *("name", "runs", "build", "checkpoints", "evaluation.every", "steps", "scoring.max_failed_share", "rollback.times"),
    *("wandb", "tensorboard", "trackio", "mlflow"),
    *("policy.max_tokens_per_micro_batch", "max_tokens_per_micro_batch", "tokens_per_patch", "rollbacks"),
    *("heartbeat_s", "collective_timeout_s", "scoring.replies", "rollout.on_lost"),
    *(f"scoring.{kind}.*.{setting}" for kind in ("judges", "graders", "reward_models") for setting in _OF_A_SERVICE),
    *LAYOUT,
)
"""What may change at a resume: where a run is kept, how long it is and when it stops, and on which ranks, but not what a step
computes; and numbers that the run chose by itself, which the resumed run keeps."""


def check_same_config(
    saved: Mapping[str, Any], current: Mapping[str, Any], *, step: int, may_differ: tuple[str, ...] = MAY_DIFFER
) -> None:
    """Refuses to resume a checkpoint of `step` steps under other settings. ValueError, a line for each setting that differs.

    saved, current: the resolved run file as JSON values (`config.model_dump(mode="json")`), with what else must stay the same
    beside it, such as "world_size". A name in may_differ stands for everything below it, and * in it for any name.
    """
    was, now = _comparable(saved, current)
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    bound = [name for name in names if not any(fnmatchcase(f"{name}.", f"{free}.*") for free in may_differ)]
    lines = [f"{name} was {_shown(was.get(name))} in the checkpoint, {_shown(now.get(name))} now" for name in bound]
    if any(name.startswith("task_files.") for name in bound):
        lines.append(
            "a task's file, or a verifier that it imports, was edited (EXAMPLES count too): rewards from before and after could "
            "not be compared"
        )
    if current["steps"] < step:
        lines.append(f"steps is {current['steps']} now, and the checkpoint is already at step {step}")
    if lines:
        raise ValueError("cannot resume; put these back, or start a run of another name:\n  " + "\n  ".join(lines))


def layout_changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Each setting of LAYOUT that differs, with both values. saved, current: as in `check_same_config`."""
    was, now = dict(_flat(saved)), dict(_flat(current))
    return [f"{name} {was.get(name)} -> {now.get(name)}" for name in LAYOUT if was.get(name) != now.get(name)]


def _comparable(saved: Mapping[str, Any], current: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both as flat settings. A section that only one of them has, such as lora, is one setting."""
    alone = {name for name in {**saved, **current} if saved.get(name) is None or current.get(name) is None}
    was, now = ({name: value for name, value in each.items() if name not in alone} for each in (saved, current))
    return dict(_flat(was)) | {n: saved.get(n) for n in alone}, dict(_flat(now)) | {n: current.get(n) for n in alone}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {each}" for key, each in value.items() if each is not None) + "}"
    return "absent" if value is None else str(value)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
