"""Log-probs and entropies of tokens from hidden states, forward and backward, by several heads.

    python -m bench.loss_head [--tokens 1024] [--size 256] [--vocabulary 151936] [--repeats 5] [--json FILE]

plain: logits of [tokens, vocabulary] and log_softmax. vlrl: vlrl.models.logprob_head. trl: TRL 1.16's, as its trainer calls it.
liger, where it is installed (pip install liger-kernel): its fused policy loss, which tells no entropy. gemm: the four matrix
products that a head with recompute can't do without, forward, again in backward, and both gradients, on logits of [tokens,
vocabulary] that nothing else is done with. Told are medians of interleaved repeats as ratios to gemm, with the middle
half; the peak that forward and backward add to the memory before them, each head in a process of its own; and how far losses and
gradients are from fp64. On an accelerator everything is in bfloat16, else in float32.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

import vlrl.models.cuda_wheels  # noqa: F401 (before trl, which imports torchvision)
from bench.measure import in_a_process, interleaved, peak_mb, ratios, write_json
from vlrl.models.logprob_head import LogProbs

Head = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden [N, H], weight [V, H], targets [N]) -> a loss."""


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logprobs = (hidden @ weight.T).float().log_softmax(dim=1)
    with torch.no_grad():
        torch.special.entr(logprobs.exp()).sum(dim=1)
    return logprobs.gather(1, targets[:, None]).mean()


def vlrl(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    temperature = torch.ones(len(hidden), device=hidden.device)
    return LogProbs.apply(hidden, weight, targets, temperature, torch.zeros(len(weight), dtype=torch.bool, device=hidden.device))[
        0
    ].mean()


def trl(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    return ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("entropy",))[
        0
    ].mean()


def liger(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Its policy loss at an advantage of -1 and a ratio of 1, whose gradient is that of the mean log-prob. Without an entropy."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    loss = LigerFusedLinearGRPOLoss(beta=0.0, use_ref_model=False, loss_type="grpo", compiled=hidden.is_cuda)
    sequences = math.gcd(8, len(hidden))
    rows = (sequences, len(hidden) // sequences)
    mask, advantages = torch.ones(rows, device=hidden.device), -torch.ones(sequences, device=hidden.device)
    return loss(hidden.view(*rows, -1), weight, targets.view(rows), mask, advantages)[0]


HEADS: dict[str, Head] = {"plain": plain, "vlrl": vlrl, "trl": trl} | ({"liger": liger} if find_spec("liger_kernel") else {})


def gemm(hidden: Tensor, weight: Tensor) -> None:
    """8 * N * H * V floating point operations."""
    logits = hidden @ weight.T
    torch.mm(hidden, weight.T, out=logits)
    logits @ weight
    logits.T @ hidden


def inputs(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(0)
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    hidden = torch.randn(options.tokens, options.size, generator=numbers).to(device, dtype).requires_grad_()
    weight = (
        (torch.randn(options.vocabulary, options.size, generator=numbers) * options.size**-0.5).to(device, dtype).requires_grad_()
    )
    return hidden, weight, torch.randint(options.vocabulary, (options.tokens,), generator=numbers).to(device)


def stepped(head: Head, hidden: Tensor, weight: Tensor, targets: Tensor) -> Callable[[], None]:
    def work() -> None:
        hidden.grad = weight.grad = None
        head(hidden, weight, targets).backward()

    return work


def off_by(head: Head, options: argparse.Namespace) -> tuple[float, float]:
    """How far loss and gradients are from fp64, of a sixteenth of the tokens."""
    hidden, weight, targets = inputs(options)
    torch.compiler.reset()  # a head compiled for all the tokens fails on fewer: torch 2.11 guards a size that has no source
    part = slice(0, max(1, options.tokens // 16))
    found, exact = [], []
    for values, dtype, function in ((found, None, head), (exact, torch.float64, plain_exact)):
        h, w = (x.detach()[part if x is hidden else slice(None)].to(dtype or x.dtype).requires_grad_() for x in (hidden, weight))
        loss = function(h, w, targets[part])
        loss.backward()
        values += [loss.detach().double(), torch.cat([h.grad.flatten().double(), w.grad.flatten().double()])]
    return (found[0] - exact[0]).abs().item(), ((found[1] - exact[1]).norm() / exact[1].norm()).item()


def plain_exact(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return (hidden @ weight.T).log_softmax(dim=1).gather(1, targets[:, None]).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", choices=HEADS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    hidden, weight, targets = inputs(options)
    if options.memory_of:
        print(peak_mb(stepped(HEADS[options.memory_of], hidden, weight, targets)))
        return
    works = {name: stepped(head, hidden, weight, targets) for name, head in HEADS.items()}
    works["gemm"] = lambda: gemm(hidden.detach(), weight.detach())
    times = interleaved(works, options.repeats)
    sizes = [f"--{name}={getattr(options, name)}" for name in ("tokens", "size", "vocabulary")]
    found = {}
    print("| head | seconds | of the products alone | peak, MB | loss off by | gradient off by |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, head in HEADS.items():
        of_gemm = ratios(times[name], times["gemm"])
        peak = float(in_a_process("bench.loss_head", [*sizes, "--memory-of", name]))
        found[name] = {"seconds": times[name], "of_gemm": of_gemm, "peak_mb": peak, "off_by": off_by(head, options)}
        loss, gradient = found[name]["off_by"]
        loss = math.nan if name == "liger" else loss  # it has another value, and the same gradient
        low, middle, high = of_gemm
        print(
            f"| {name} | {statistics.median(times[name]):.3f} | {middle:.2f} ({low:.2f} to {high:.2f}) | {peak:.0f} "
            f"| {loss:.0e} | {gradient:.0e} |"
        )
    sizes_told = {name: getattr(options, name) for name in ("tokens", "size", "vocabulary")}
    write_json(options.json, **sizes_told, heads=found, gemm=times["gemm"])


if __name__ == "__main__":
    main()
