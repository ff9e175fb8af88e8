"""The canary: after a weight sync, engine and trainer must give fixed probes the same log-probs.

One probe is text, one has an image. The engine samples responses to each under a fixed seed and the trainer scores them: the
path of a real rollout, bans and temperature included. They are compared by the mean difference over the responses' tokens. A
single token says little in half precision, and less in a MoE model, where a rounding sends it to other experts.

The bound follows from the difference at start, since kernels differ between machines; a start that no rounding explains is
refused. A skipped push at a small learning rate would stay below any bound, so the version counts too. A token that stands
between two experts makes a large difference of nothing, in itself and in the tokens behind it: those are not compared.
"""

import logging
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vlrl.models.attention import row_spans
from vlrl.models.config_json import is_moe
from vlrl.models.packing import Pack, pack_groups
from vlrl.models.processor import EncodedPrompt, Encoder
from vlrl.rollout.engine import Decoding, Engine, Request, sampling_seed
from vlrl.rollout.weight_sync import SyncError
from vlrl.trainer.policy import Policy
from vlrl.types import Message

logger = logging.getLogger(__name__)

_DRAWS = 2  # a check fails only if each of them does, with responses of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """What rounding explains of the mean difference of a token's log-prob, and how many tokens show it.

    responses: sampled for each probe, of `tokens` tokens at most. floor: a smaller difference at start counts as this much.
    most: a larger one at start is refused. tie: how near two experts' probabilities may be for rounding to decide between them; 0
    in half precision, where it decides for many tokens, and the difference at start has that in it.
    """

    responses: int
    tokens: int
    floor: float
    most: float
    tie: float = 0.0


# fp32: a wrong weight shows in the first tokens. bf16: public runs differ by .02 to .03 a token, MoE by .06.
_FLOAT32 = Precision(responses=1, tokens=4, floor=1e-5, most=1e-3, tie=1e-6)
_BFLOAT16 = Precision(responses=4, tokens=8, floor=2e-3, most=0.1)
_BFLOAT16_MOE = Precision(responses=4, tokens=8, floor=3e-3, most=0.2)


class Canary:
    """Compares engine and trainer; `baseline` is their difference at start, the largest over ranks.

    tolerance: the bound, as a multiple of the baseline. SyncError if they differ at start by more than rounding explains.
    """

    def __init__(self, policy: Policy, engine: Engine, encoder: Encoder, *, temperature: float, tolerance: float):
        self._policy, self._engine = policy, engine
        self._decoding = Decoding(temperature=temperature)
        self._filler = encoder.filler()
        self._probes = _probes(encoder)
        self._precision = _precision(policy)
        self.baseline = self._smallest(self._precision.most)
        self.bound = tolerance * max(self.baseline, self._precision.floor)
        if not self.baseline <= self._precision.most:
            raise SyncError(
                f"at start engine and trainer differ by {self.baseline:.2e} a token on the canary's probes, and in "
                f"{policy.settings.dtype} rounding explains {self._precision.most:.0e} at most; remove the settings under "
                f"engine.vllm, and install the versions that requirements/ pins. {self._named_differences()}"
            )

    def check(self) -> float:
        """The difference now. SyncError, naming the tensors that differ if it can tell, past the bound or with old weights."""
        policy, engine = self._policy, self._engine
        if engine.version != policy.version:
            raise SyncError(
                f"the engine holds weights of version {engine.version}, the trainer is at {policy.version}: a push was skipped"
            )
        difference = self._smallest(self.bound)
        if difference <= self.bound:
            return difference
        raise SyncError(
            f"after weight sync {engine.version} engine and trainer differ by {difference:.2e} a token on the canary's "
            f"probes (at start {self.baseline:.2e}, bound {self.bound:.2e}). {self._named_differences()}"
        )

    def difference(self, draw: int = 0) -> float:
        """The mean difference between the engine's and the trainer's log-probs of the probes' responses, infinite if unknown.

        draw: other seeds sample other responses. Tokens behind a tie are left out; if all are, it is 0, with a warning. All ranks
        call it.
        """
        requests = [
            Request(
                slot=slot,
                sample=sample,
                prompt=prompt,
                max_new_tokens=self._precision.tokens,
                decoding=self._decoding,
                seed=sampling_seed(draw, slot, sample),
            )
            for slot, prompt in enumerate(self._probes)
            for sample in range(self._precision.responses)
        ]
        rollouts = sorted(self._engine.generate(requests), key=lambda rollout: (rollout.slot, rollout.sample))
        groups = [
            (prompt, [rollout.tokens for rollout in rollouts if rollout.slot == slot]) for slot, prompt in enumerate(self._probes)
        ]
        pack = pack_groups(groups, self._filler)
        with self._policy.routing.gaps() as gaps:
            ours = self._policy.logprobs(pack).logprobs.cpu()
        theirs = torch.tensor([logprob for rollout in rollouts for logprob in rollout.logprobs])
        differences = (ours - theirs).abs()
        if gaps:
            differences = differences[_before_any_tie(pack, (torch.stack(gaps) < self._precision.tie).any(0).cpu())]
        if not len(differences):
            logger.warning("both probes of the canary have a token between two experts, so nothing was compared this time")
            return 0.0
        mean = differences.mean().item()
        return mean if math.isfinite(mean) else math.inf

    def _smallest(self, bound: float) -> float:
        """The first draw's difference within the bound, the largest over ranks; or the smallest of all draws."""
        found: list[float] = []
        for draw in range(_DRAWS):
            found.append(self._policy.ranks.max(self.difference(draw)))
            if found[-1] <= bound:
                break
        return min(found)

    def _named_differences(self) -> str:
        names = self._engine.differing_weights(self._policy.named_weights())
        if not names:
            return "The differing tensors are unknown, since the engine holds them in a layout of its own"
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return f"Tensors that differ: {', '.join(names[:8])}{more}"


def _precision(policy: Policy) -> Precision:
    if policy.settings.dtype == "float32":
        return _FLOAT32
    return _BFLOAT16_MOE if is_moe(policy.engine.module.qwen.config.text_config.to_dict()) else _BFLOAT16


def _before_any_tie(pack: Pack, tied: Tensor) -> Tensor:
    """[N] which response tokens no tie can have moved: none of the tokens that they attend to is tied.

    tied: [T] tokens of the row that a router's rounding may send to either of two experts.
    """
    clear = []
    for (start, end), responses in row_spans(pack.groups):
        for first, last in responses:
            ties = tied[first : last - 1].cumsum(0) + tied[start:end].sum()
            clear.append(torch.cat([tied[start:end].sum()[None], ties]) == 0)
    return torch.cat(clear)


def _probes(encoder: Encoder) -> list[EncodedPrompt]:
    """A prompt of text, and one with an image, which each rank writes for itself: another's may be half written."""
    text: Message = {"role": "user", "content": [{"type": "text", "text": "What is 2 + 3? Explain."}]}
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "canary.png"
        ramp = Image.linear_gradient("L").resize((96, 64))
        Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM), ramp)).save(picture)
        image: Message = {
            "role": "user",
            "content": [{"type": "image", "image": str(picture)}, {"type": "text", "text": "What is in the picture?"}],
        }
        return [encoder.encode([text]), encoder.encode([image])]
