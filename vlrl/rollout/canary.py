"""The canary: after a weight sync, engine and trainer must give fixed probes the same log-probs.

One probe is text, one has an image. The engine samples a response to each under a fixed seed and the trainer scores it: the
path of a real rollout, bans and temperature included. The bound is relative to the difference found at start, since each
precision has a floor of its own; a skipped push at a small learning rate would stay below any bound, so the version counts too.
"""

from pathlib import Path

import torch
from PIL import Image

from vlrl.models.packing import pack_groups
from vlrl.models.processor import EncodedPrompt, Encoder
from vlrl.rollout.engine import Decoding, Engine, Request, sampling_seed
from vlrl.rollout.weight_sync import SyncError
from vlrl.trainer.policy import Policy
from vlrl.types import Message

PROBE_TOKENS = 4  # a wrong weight shows in the first; each costs a decoding step
_FLOOR = {"float32": 1e-5, "bfloat16": 2e-2}


class Canary:
    """Compares engine and trainer; `baseline` is their largest difference over ranks at start, before any sync."""

    def __init__(self, policy: Policy, engine: Engine, encoder: Encoder, *, temperature: float, tolerance: float, folder: Path):
        self._policy, self._engine = policy, engine
        self._decoding = Decoding(temperature=temperature)
        self._filler = encoder.filler()
        self._probes = _probes(encoder, folder)
        self.baseline = policy.ranks.max(self.difference())
        self.bound = tolerance * max(self.baseline, _FLOOR[policy.settings.dtype])

    def difference(self) -> float:
        """The largest difference between the engine's and the trainer's log-prob of a probe's token. All ranks call it."""
        requests = [
            Request(
                slot=slot,
                sample=0,
                prompt=prompt,
                max_new_tokens=PROBE_TOKENS,
                decoding=self._decoding,
                seed=sampling_seed(slot),
            )
            for slot, prompt in enumerate(self._probes)
        ]
        rollouts = sorted(self._engine.generate(requests), key=lambda rollout: rollout.slot)
        pack = pack_groups([(self._probes[r.slot], [r.tokens]) for r in rollouts], self._filler)
        ours = self._policy.logprobs(pack).logprobs
        theirs = torch.tensor([logprob for rollout in rollouts for logprob in rollout.logprobs], device=ours.device)
        return (ours - theirs).abs().max().item()

    def check(self) -> float:
        """The difference now. SyncError, naming the tensors that differ if it can tell, past the bound or with old weights."""
        policy, engine = self._policy, self._engine
        if engine.version != policy.version:
            raise SyncError(
                f"the engine holds weights of version {engine.version}, the trainer is at {policy.version}: a push was skipped"
            )
        difference = self.difference()
        worst = policy.ranks.max(difference)
        if not worst <= self.bound:
            names = _described(engine.differing_weights(policy.named_weights()))
            raise SyncError(
                f"after weight sync {engine.version} engine and trainer differ by {worst:.2e} a token on the canary's probes "
                f"(at start {self.baseline:.2e}, bound {self.bound:.2e}). {names}"
            )
        return worst


def _described(names: list[str]) -> str:
    if not names:
        return "The differing tensors are unknown, since the engine holds them in a layout of its own"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"Tensors that differ: {', '.join(names[:8])}{more}"


def _probes(encoder: Encoder, folder: Path) -> list[EncodedPrompt]:
    picture = folder / "canary.png"
    if not picture.exists():
        ramp = Image.linear_gradient("L").resize((96, 64))
        Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM), ramp)).save(picture)
    text: Message = {"role": "user", "content": [{"type": "text", "text": "What is 2 + 3? Explain."}]}
    image: Message = {
        "role": "user",
        "content": [{"type": "image", "image": str(picture)}, {"type": "text", "text": "What is in the picture?"}],
    }
    return [encoder.encode([text]), encoder.encode([image])]
