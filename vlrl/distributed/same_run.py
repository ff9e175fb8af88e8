"""What may change when a run resumes: its settings, data and task files are compared with those of the checkpoint."""

from collections.abc import Collection, Iterator, Mapping
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


_ABSENT: tuple[Any, ...] = (None, {})


def check_same_config(
    saved: Mapping[str, Any], current: Mapping[str, Any], *, step: int, may_differ: tuple[str, ...] = MAY_DIFFER
) -> None:
    """Refuses to resume a checkpoint of `step` steps under other settings. ValueError, a line for each setting that differs.

    saved, current: the resolved run file as JSON values (`config.model_dump(mode="json")`), with what else must stay the same
    beside it, such as "world_size". A name in may_differ stands for everything below it, and * in it for any name.
    """
    found = {name: values for name, *values in _differing(saved, current) if not _is_free(name, may_differ)}
    bound = [name for name in found if not _follows(name, found)]
    lines = [f"{name} was {_shown(found[name][0])} in the checkpoint, {_shown(found[name][1])} now" for name in bound]
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
    found = {name: values for name, *values in _differing(saved, current)}
    return [f"{name} {found[name][0]} -> {found[name][1]}" for name in LAYOUT if name in found]


def _differing(was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each setting that differs: its name and both values. A section that only one of them has, such as lora, is one setting."""
    for key in {**was, **now}:
        before, after = was.get(key), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differing(before, after, f"{prefix}{key}.")
        elif before != after and not (before in _ABSENT and after in _ABSENT):
            yield f"{prefix}{key}", before, after


def _is_free(name: str, may_differ: tuple[str, ...]) -> bool:
    return any(fnmatchcase(f"{name}.", f"{free}.*") for free in may_differ)


def _follows(name: str, found: Collection[str]) -> bool:
    """Whether it differs only because another found setting does: a new task brings its place, rows and file with it, and a
    task that reads other rows another fingerprint."""
    section, _, task = name.partition(".")
    mixture = [other.removeprefix("mixture.") for other in found if other.startswith("mixture.")]
    match section:
        case "tasks":
            return any("." not in each for each in mixture)
        case "data":
            return any(each == task or each.startswith((f"{task}.rows", f"{task}.columns")) for each in mixture)
        case "task_files":
            return task in mixture or f"{task}.task" in mixture
    return False


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {each}" for key, each in value.items() if each is not None) + "}"
    return "absent" if value is None else str(value)
