"""The settings of a run, section by section, and the contradictions between them. vlrl.run_file reads them from YAML."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vlrl.common.build_settings import BuildConfig
from vlrl.common.evaluation_settings import EvaluationConfig
from vlrl.common.names import name_fault
from vlrl.common.policy_settings import TARGETS_WITHOUT_SERVING, EngineConfig, LoraConfig, PolicyConfig
from vlrl.common.rollout_settings import RolloutConfig
from vlrl.common.service_settings import GraderConfig, JudgeConfig, RewardModelConfig, ServiceConfig, ServiceName
from vlrl.common.settings import Count, GroupSize, Positive, Section, Share
from vlrl.common.task_settings import TaskConfig
from vlrl.common.tracker_settings import MlflowConfig, TrackerConfig, TrackioConfig, WandbConfig

_GSPO_CLIPS = {"clip_low": 3e-4, "clip_high": 4e-4}  # arXiv 2507.18071, section 5.1
_MAX_GSPO_CLIP = 0.05
_LORA_RATE = 1.0e-5
"""Ten times full training's: "LoRA Without Regret" (Thinking Machines Lab, 2025) finds the best rate there, at every rank."""
SHORTEST_SILENCE_S = 5
FEWEST_STEPS_KEPT = 5  # the steps after which the collapse watch has seen how well a checkpoint's weights do


class SamplingConfig(Section):
    """How training samples responses.

    group_size: responses to each prompt; their mean reward is the baseline. More of them find a rare right answer, and cost
    sampling time. max_new_tokens: the longest response in tokens; raise it if `rollout/truncated` is far above 0.
    temperature: divides the logits, in sampling and in the loss. Lower it if answers fail by single unlikely tokens.
    dynamic_sampling_rounds: how many times a step replaces the groups whose rewards are all equal, and which teach nothing, by
    groups for other rows of the same task, so that the mixture's ratios hold among the groups that count (DAPO's dynamic
    sampling, arXiv 2503.14476, section 3.2). 0 turns it off.
    """

    group_size: GroupSize = 16
    max_new_tokens: Count = 4096
    temperature: Positive = 1.0
    dynamic_sampling_rounds: Annotated[int, Field(ge=0)] = 0


class AlgorithmConfig(Section):
    """SAPO (arXiv 2511.20347) by default; GRPO, GSPO and the plain policy gradient are other gates of the same loss.

    gate: the function of the ratio to the old policy; docs/algorithm.md has all of them.
    tau_pos, tau_neg: temperatures of SAPO's gate for tokens with a positive or negative advantage; a higher one lets less of
    a token far from the old policy count.
    clip_low, clip_high: the bounds of GRPO's clip; under gspo, which clips a whole sequence's ratio, 3e-4 and 4e-4.
    minibatches: optimizer updates for each step's batch; with 1 every ratio is 1, and more of them are further off-policy.
    normalise_std: divides a group's advantages by the standard deviation of its rewards; false for Dr. GRPO.
    std: with the divisor G - 1 (sample) or G (population).
    std_epsilon: added to that standard deviation.
    loss_aggregation: sequence, the mean over sequences of the mean over their tokens (SAPO, GRPO); token, the mean over all
    tokens of a mini-batch (DAPO); constant, the sum over tokens divided by scored rollouts times sampling.max_new_tokens (Dr.
    GRPO, with normalise_std: false).
    mask_truncated: a response that reached max_new_tokens counts in its group's baseline and not in the loss (DAPO).
    old_policy: whose probabilities of the sampled tokens the ratio is to. trainer: the trainer's before the step's first update;
    engine: those with which the tokens were sampled, so that the gate sees how old these weights are, w is 1, and the step
    computes no old log-probs.
    tis_mode: the truncated importance sampling weight w = pi_old / pi_engine of a token. truncate: min(w, tis_cap); mask: w,
    or 0 outside of tis_floor and tis_cap (IcePop).
    tis_cap: the largest weight.
    tis_floor: the smallest one that mask keeps.
    routing_replay: for MoE models. r2: an update sends tokens to the experts that the old policy chose (arXiv 2512.01374);
    r3: the update and the old log-probs send them to those that the engine chose (arXiv 2510.11370).
    kl_coefficient: the weight of a KL term to the model that the run began with; 0 is none. Without lora that model is held in
    memory too.
    """

    gate: Literal["sapo", "grpo", "gspo", "gspo_token", "pg"] = "sapo"
    tau_pos: Positive = 1.0
    tau_neg: Positive = 1.05
    clip_low: Share = 0.2
    clip_high: Positive = 0.27
    minibatches: Count = 2
    normalise_std: bool = True
    std: Literal["sample", "population"] = "sample"
    std_epsilon: Annotated[float, Field(ge=0)] = 1e-6
    loss_aggregation: Literal["sequence", "token", "constant"] = "sequence"
    mask_truncated: bool = False
    old_policy: Literal["trainer", "engine"] = "trainer"
    tis_mode: Literal["truncate", "mask"] = "truncate"
    tis_cap: Positive = 2.0
    tis_floor: Share = 0.5
    routing_replay: Literal["none", "r2", "r3"] = "none"
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _clip_sequences(cls, raw: Any) -> Any:
        return _GSPO_CLIPS | raw if isinstance(raw, dict) and raw.get("gate") in ("gspo", "gspo_token") else raw


class ImagesConfig(Section):
    """Bounds on an image's area in pixels: larger images are scaled down, smaller ones up.

    min_pixels, max_pixels: width times height. An image costs prompt tokens in proportion to it, so lower max_pixels if
    prompts are too long, and raise it if the task needs small print.
    max_side: the longest side accepted, in pixels.
    """

    min_pixels: Count = 64 * 64
    max_pixels: Count = 1024 * 1024
    max_side: Count = 16384


class ScoringConfig(Section):
    """The pool of verifier processes.

    workers: processes that score, on each rank; more if `time/score` is long.
    timeout_s: seconds for one response, after which its worker is killed.
    memory_mb: MiB of address space of a worker.
    max_failed_share: the share of a task's latest rollouts that may end without a verdict; beyond it the run stops and names
    the verifier's line.
    isolation: how code in a response runs. jail: see vlrl.sandbox.jail; limits: with resource limits alone, for machines that
    cannot build the jail.
    judges, graders, reward_models: by name, services that verifiers may ask; see docs/judges.md.
    replies: the folder for the services' replies, if not the run's own.
    """

    workers: Count = 2
    timeout_s: Positive = 10.0
    memory_mb: Count = 2048
    max_failed_share: Share = 0.2
    isolation: Literal["jail", "limits"] = "jail"
    judges: dict[ServiceName, JudgeConfig] = {}
    graders: dict[ServiceName, GraderConfig] = {}
    reward_models: dict[ServiceName, RewardModelConfig] = {}
    replies: Path | None = None

    @property
    def services(self) -> dict[str, ServiceConfig]:
        return {**self.judges, **self.graders, **self.reward_models}


class ColdStartConfig(Section):
    """Supervised steps on the rows' own responses before the run.

    steps: 0 for none; raise it if a task begins at chance. batch_size: demonstrations in each step. lr: the peak learning rate; a
    released model needs far less than a random one. warmup_steps: steps in which the rate rises linearly.
    """

    steps: Annotated[int, Field(ge=0)] = 0
    batch_size: Count = 64
    lr: Positive = 1.0e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 10


class CheckpointsConfig(Section):
    """The states from which a run resumes.

    every: steps between checkpoints; a killed run repeats at most as many. With 0 a run saves only if a signal stops it, and
    at its end. keep: how many of the newest stay on the disk.
    signal_grace_s: seconds after SIGTERM within which a save may still begin; below what your launcher waits before it kills.
    """

    every: Annotated[int, Field(ge=0)] = 50
    keep: Count = 2
    signal_grace_s: Positive = 25.0


class RollbackConfig(Section):
    """What changes at a rollback to a checkpoint from before a collapse (on_collapse: rollback), besides the sampling seeds.

    times: the most rollbacks of a run; after that, a collapse is a warning. signals: the signals of the collapse watch that cause
    a rollback; the others are warnings.
    scale_lr: multiplies the learning rate from then on, at each rollback. scale_task_loss: multiplies the loss_weight of the
    tasks that collapsed, at each rollback. kl_coefficient: replaces algorithm.kl_coefficient; null keeps it.
    """

    times: Count = 1
    scale_lr: Positive = 0.5
    kl_coefficient: Annotated[float, Field(ge=0)] | None = None
    scale_task_loss: Positive = 1.0
    signals: tuple[Literal["reward", "entropy", "length", "ratio"], ...] = ("reward",)


class Config(Section):
    """The run itself: which model, which tasks, how long, and in which folders.

    name: the run's folder is `runs`/`name`; another name starts another run.
    model: a folder, or a model's name on the hub.
    steps: batches of rollouts to train on.
    prompts_per_step: prompts in a batch, over all ranks; more make a steadier gradient and a longer step.
    seed: decides draws and samples; runs that differ only in it show how much is chance.
    runs: the folder of run folders, which all hosts must share.
    task_folders: where task files are looked for, in this order.
    threads: torch's threads in the training process; 0 leaves torch's choice.
    template_kwargs: variables of the model's chat template, such as enable_thinking: false.
    heartbeat_s: a rank that is silent for longer ends the run on all hosts; 0 turns that off.
    collective_timeout_s: the longest wait of one rank for another, as for the one with the longest responses; it must be
    longer than any that is legitimate.
    on_collapse: what happens if the collapse watch flags a task: a warning, the end of the run, or a return to an earlier
    checkpoint (docs/algorithm.md).
    lora: trains adapters; without it the whole model is trained. policy.lr is then 1e-5 if it is left out.
    """

    name: Annotated[str, Field(min_length=1)]
    model: str
    steps: Count
    prompts_per_step: Count
    mixture: dict[str, TaskConfig]
    seed: int = 0
    runs: Path = Path("runs")
    build: BuildConfig = BuildConfig()
    task_folders: tuple[Path, ...] = (Path("tasks"),)
    template_kwargs: dict[str, Any] = {}
    threads: Annotated[int, Field(ge=0)] = 0
    heartbeat_s: Annotated[float, Field(ge=0)] = 60.0
    collective_timeout_s: Positive = 1800.0
    on_collapse: Literal["warn", "stop", "rollback"] = "warn"
    rollback: RollbackConfig = RollbackConfig()
    sampling: SamplingConfig = SamplingConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    policy: PolicyConfig = PolicyConfig()
    lora: LoraConfig | None = None
    engine: EngineConfig = EngineConfig()
    rollout: RolloutConfig = RolloutConfig()
    images: ImagesConfig = ImagesConfig()
    scoring: ScoringConfig = ScoringConfig()
    coldstart: ColdStartConfig = ColdStartConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    wandb: WandbConfig = WandbConfig()
    tensorboard: TrackerConfig | None = None
    trackio: TrackioConfig | None = None
    mlflow: MlflowConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _choose_rate(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or raw.get("lora") is None or not isinstance(raw.get("policy", {}), dict):
            return raw
        return raw | {"policy": {"lr": _LORA_RATE} | raw.get("policy", {})}

    @model_validator(mode="after")
    def _is_consistent(self) -> "Config":
        if faults := list(_faults(self)):
            raise ValueError("\n".join(faults))
        return self

    @property
    def folder(self) -> Path:
        """The run's folder: everything that the run leaves is under it."""
        return self.runs / self.name

    @property
    def ranks_per_engine(self) -> int:
        """How many ranks hold an engine together: 1 if it is in processes of its own."""
        return 1 if self.rollout.is_separate else self.engine.tensor_parallel

    def group_size(self, task: str) -> int:
        return self.mixture[task].group_size or self.sampling.group_size

    def max_new_tokens(self, task: str) -> int:
        return self.mixture[task].max_new_tokens or self.sampling.max_new_tokens


def _faults(config: Config) -> Iterator[str]:
    """Yields a sentence for each contradiction between settings."""
    algorithm, context, images = config.algorithm, config.engine.max_model_len, config.images
    if not config.mixture:
        yield "mixture: names no task; give at least one, as NAME: {weight: 1, rows: FOLDER}"
    if config.prompts_per_step % algorithm.minibatches:
        yield (
            f"prompts_per_step: {config.prompts_per_step} prompts do not split into {algorithm.minibatches} equal mini-batches; "
            f"use a multiple of {algorithm.minibatches}"
        )
    if algorithm.gate == "sapo" and algorithm.minibatches == 1:
        yield (
            "algorithm.minibatches: with 1 mini-batch per step every ratio is 1 and SAPO's gate never acts; use 2 or more, "
            "or gate: grpo for purely on-policy steps"
        )
    if algorithm.gate.startswith("gspo") and max(algorithm.clip_low, algorithm.clip_high) > _MAX_GSPO_CLIP:
        yield (
            f"algorithm.clip_low, clip_high: {algorithm.clip_low} and {algorithm.clip_high} never clip under {algorithm.gate}, "
            f"whose ratio is a mean over a whole sequence; leave them out for the paper's 3e-4 and 4e-4"
        )
    services = [*config.scoring.judges, *config.scoring.graders, *config.scoring.reward_models]
    if len(set(services)) < len(services):
        yield f"scoring: two services have the same name, among {', '.join(services)}; give each its own"
    for task, mix in config.mixture.items():
        if fault := name_fault(task):
            yield f"mixture.{task}: {fault}"
        if algorithm.gate != "sapo" and (mix.tau_pos or mix.tau_neg):
            yield f"mixture.{task}: tau_pos, tau_neg are the sapo gate's, and algorithm.gate is {algorithm.gate}; leave them out"
    if config.policy.dtype == "bfloat16" and config.policy.zero_stage == 0:
        yield "policy.zero_stage: 0 gives bfloat16 training another trajectory than the other stages do; use zero_stage: 1"
    if config.policy.offload_optimizer and config.policy.zero_stage == 0:
        yield "policy.offload_optimizer: requires zero_stage 1, 2 or 3, got 0; use zero_stage: 2"
    if config.policy.expert_parallel > 1 and config.policy.zero_stage not in (1, 2):
        yield f"policy.expert_parallel: requires zero_stage 1 or 2, got {config.policy.zero_stage}; use zero_stage: 1"
    if config.policy.expert_parallel > 1 and algorithm.routing_replay != "none":
        yield "policy.expert_parallel: cannot be used with routing replay; leave out algorithm.routing_replay"
    if algorithm.old_policy == "engine" and algorithm.routing_replay == "r2":
        yield (
            "algorithm.routing_replay: r2 replays the experts of the old policy's pass, which old_policy: engine leaves out; "
            "use routing_replay: r3, or old_policy: trainer"
        )
    yield from _lora_faults(config)
    yield from config.rollout.faults()
    if (longest := max(preset.max_new_tokens or 0 for preset in config.evaluation.all_presets().values())) >= context:
        yield (
            f"evaluation.max_new_tokens: {longest} tokens leave no room for a prompt in engine.max_model_len {context}; "
            f"raise the one or lower the other"
        )
    for task in config.mixture:
        if config.max_new_tokens(task) >= context:
            yield (
                f"engine.max_model_len: {context} tokens leave no room for a prompt beside max_new_tokens "
                f"{config.max_new_tokens(task)} of task {task!r}; raise the one or lower the other"
            )
    if 0 < config.heartbeat_s < SHORTEST_SILENCE_S:
        yield (
            f"heartbeat_s: {config.heartbeat_s:g} s would end a healthy run, since a busy machine may be silent for seconds; "
            f"use {SHORTEST_SILENCE_S} or more, or 0 for no heartbeat"
        )
    if config.on_collapse != "rollback" and config.rollback != RollbackConfig():
        yield f"rollback: has no effect with on_collapse: {config.on_collapse}; set on_collapse: rollback, or leave it out"
    if config.on_collapse == "rollback" and not config.rollback.signals:
        yield "rollback.signals: is empty, so that no collapse makes the run go back; name at least one, such as reward"
    if config.on_collapse == "rollback" and config.checkpoints.every * config.checkpoints.keep < FEWEST_STEPS_KEPT:
        yield (
            f"checkpoints.every: {config.checkpoints.every} with keep: {config.checkpoints.keep} leaves on_collapse: rollback no "
            f"checkpoint from before a collapse; every times keep must be at least {FEWEST_STEPS_KEPT}"
        )
    if images.min_pixels > images.max_pixels:
        yield f"images.min_pixels: {images.min_pixels} is above images.max_pixels {images.max_pixels}; swap them"


def _lora_faults(config: Config) -> Iterator[str]:
    if config.lora is None:
        return
    targets = config.lora.targets or ()
    if config.policy.expert_parallel > 1:
        yield f"policy.expert_parallel: cannot be used with lora, got {config.policy.expert_parallel}; use zero_stage: 3 instead"
    if config.policy.freeze_vision and "vision" in targets:
        yield "lora.targets: vision is trained by its adapters and policy.freeze_vision is true; remove one of the two"
    if config.lora.sync == "adapter" and (unserved := sorted(TARGETS_WITHOUT_SERVING & set(targets))):
        yield f"lora.sync: vLLM serves no adapters of {', '.join(unserved)}; use sync: merged, or auto"
