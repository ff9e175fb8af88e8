"""A run file with some trackers on."""

from collections.abc import Sequence

from vlrl.config import Config
from vlrl.run_file import parse_config


def run_of(trackers: Sequence[str]) -> Config:
    """wandb among them is offline. Each shows rollouts at every second step."""
    raw = {"name": "toy", "model": "m", "steps": 2, "prompts_per_step": 2, "sampling": {"group_size": 8, "max_new_tokens": 4}}
    raw |= {"mixture": {"digits": {"weight": 1, "rows": "rows"}}, "wandb": {"mode": "disabled"}}
    return parse_config(raw | {name: {"tables_every": 2} for name in trackers}, "made up")
