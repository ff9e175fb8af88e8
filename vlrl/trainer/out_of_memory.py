"""Memory that runs out in a forward or backward ends the run, with a sentence that says what to set.

Nothing is tried again: DeepSpeed may have reduced a part of the gradients, and the other ranks wait in a collective for the rest.
They end when this process does.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vlrl.models.packing import Pack

WITH_LESS_MEMORY = (
    "set gradient_checkpointing: true, a higher zero_stage, a lower engine.gpu_memory_utilization, or shorter responses"
)


@contextmanager
def explain_out_of_memory(pack: Pack, advice: str) -> Iterator[None]:
    """RuntimeError, with the micro-batch's size and the advice, if memory runs out in the block."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        size = f"{len(pack.tokens)} tokens and {len(pack.pixels)} image patches"
        raise RuntimeError(f"memory ran out in a micro-batch of {size}; {advice} ({error})") from error


def smaller_than(pack: Pack, budget: int) -> str:
    """The advice for a micro-batch of this budget."""
    if pack.num_sequences < 2:
        return f"it holds a single response and cannot be smaller: {WITH_LESS_MEMORY}"
    return f"set policy.max_tokens_per_micro_batch to a number below {budget}, and run the same command again"
