"""A run's checkpoints: when one is written, and which of them must stay."""

from collections.abc import Callable
from pathlib import Path

from vlrl.common.signals import StopSignal
from vlrl.distributed import checkpoint as checkpoints
from vlrl.distributed.checkpoint import Checkpoint
from vlrl.distributed.same_run import check_same_config, layout_changes
from vlrl.rollout.batch import Sampler
from vlrl.run import Run
from vlrl.telemetry.collapse_watch import CollapseWatch
from vlrl.telemetry.progress import announce
from vlrl.trainer import rollback
from vlrl.trainer.policy import Policy


class Checkpointing:
    """Saves and finds the checkpoints of one run. All ranks call each method together."""

    def __init__(self, run: Run, policy: Policy, stop: StopSignal) -> None:
        self._run, self._policy, self._stop = run, policy, stop
        self._settings = run.config.checkpoints
        self.root = run.config.folder / "checkpoints"
        self.finish: Callable[[], None] = lambda: None
        """Waits for the checkpoint that is being sealed."""
        self._good: set[int] = set()
        """Steps whose checkpoint this process wrote or loaded; another folder of a step may be damaged."""
        self._protected: set[int] = set()
        """Checkpoints from before a collapse, which are not pruned."""

    def save(self, step: int, watch: CollapseWatch, sampler: Sampler, *, rollbacks: int, wait: bool) -> None:
        """Saves the state after `step` steps, unless it is saved already or the grace period of a signal is over.

        wait: until it is sealed; otherwise that happens beside the next step.
        """
        ranks, settings = self._run.ranks, self._settings

        def write(folder: Path) -> None:
            self._policy.save(folder)
            sampler.save(folder)

        too_late = ranks.any(self._stop.grace_over(settings.signal_grace_s))
        if not too_late and step not in self._good:
            self.finish()
            self.finish = checkpoints.begin(
                self.root,
                step,
                write,
                self._run.identity
                | {"max_tokens_per_micro_batch": self._policy.max_tokens_per_micro_batch}
                | {"tokens_per_patch": self._policy.tokens_per_patch, "rollbacks": rollbacks},
                keep=settings.keep,
                protected=self._protected | self._needed_for_a_rollback(step, watch),
                rank=ranks.rank,
                world_size=ranks.size,
                agree=ranks.min,
            )
            self._good.add(step)
        if wait:
            self.finish()

    def _needed_for_a_rollback(self, step: int, watch: CollapseWatch) -> set[int]:
        config = self._run.config
        if config.on_collapse != "rollback":
            return set()
        return rollback.protected(
            checkpoints.saved_steps(self.root),
            step,
            every=self._settings.every,
            keep=self._settings.keep,
            well_after=watch.well_after(config.rollback.signals),
        )

    def load_newest(self, lr_scale: Callable[[], float]) -> Checkpoint | None:
        """Loads the newest good checkpoint into the policy; None if there is none.

        If it was saved under another layout, it is laid out anew, and the policy's token budget stays as it is.
        """
        ranks = self._run.ranks
        self._protected = set()
        found = checkpoints.newest_good(self.root, rank=ranks.rank, world_size=ranks.size, agree=ranks.min)
        if found:
            check_same_config(found.state, self._run.identity, step=found.step)
            self._policy.load(found.path, lr_scale=lr_scale())
            was, now = found.state["steps"], self._run.config.steps
            if was != now:
                announce(
                    f"The run had {was} steps and has {now} now: from here on its rate falls as in one of {now}",
                    shown=ranks.is_first,
                )
            if changes := layout_changes(found.state, self._run.identity):
                announce(
                    f"Checkpoint {found.path.name} is laid out anew ({', '.join(changes)}); from here on results may differ in "
                    "their last bits from those of the unchanged run",
                    shown=ranks.is_first,
                )
            else:
                # Micro-batches of another size would change the update's last bits; a number in the run file asks for that.
                self._policy.max_tokens_per_micro_batch = (
                    self._policy.max_tokens_per_micro_batch or found.state["max_tokens_per_micro_batch"]
                )
                self._policy.tokens_per_patch = found.state["tokens_per_patch"]
            self._good = {found.step}
        return found

    def drop_left_behind(self, rollbacks: tuple[rollback.Rollback, ...]) -> None:
        """Deletes the checkpoints of a future that the run has left. Only the first rank calls it."""
        checkpoints.drop(self.root, lambda step, state: rollback.is_left_behind(step, state["rollbacks"], rollbacks))

    def protect_newest_before(self, step: int) -> None:
        """Keeps the newest regular checkpoint before `step` for good."""
        if earlier := [each for each in self.regular() if each < step]:
            self._protected.add(max(earlier))

    def regular(self) -> list[int]:
        """The steps of the checkpoints that checkpoints.every asks for, the same on every rank."""
        ranks = self._run.ranks
        steps = ranks.broadcast(checkpoints.saved_steps(self.root) if ranks.is_first else [])
        return [step for step in steps if step % (self._settings.every or 1) == 0]
