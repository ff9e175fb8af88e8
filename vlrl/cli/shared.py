"""Code that the commands share: common arguments, opening a run, and printing each error as one sentence."""

import logging
import os
import select
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from vlrl.common.signals import Interrupted, interruptible
from vlrl.config import ColdStartConfig, Config
from vlrl.distributed.heartbeat import Heartbeat
from vlrl.run_file import load_config
from vlrl.telemetry.progress import announce

RunFile = Annotated[Path, typer.Argument(help="The run file; configs/ has examples.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings that replace those in the file: a.b=c ...")]
Folders = Annotated[list[Path], typer.Option("--tasks", help="A folder of task files; can be repeated.")]
TASKS = [Path("tasks")]
SETTINGS = {"ignore_unknown_options": True}  # for commands with overrides: the error for `--steps 4` can then suggest `steps=4`

_CONTINUES = "; the same command continues with what was kept"
_heartbeat: list[Heartbeat] = []  # of the command in this process, from when its ranks have joined
_OF_A_COLLECTIVE = (
    "gloo",
    "NCCL",
    "DistBackendError",
    "DistNetworkError",
    "on another rank",
)  # in an error that another rank may have caused
_UNREAD = 141  # 128 + SIGPIPE, as other tools in a pipe exit


class App(typer.Typer):
    """The command-line app. If the reader of its pipe has gone (`vlrl data show data/dots/train | head`), it ends silently."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        output = sys.stdout
        try:
            try:
                return super().__call__(*arguments, **settings)
            finally:
                output.flush()
        except (BrokenPipeError, SystemExit) as end:
            broken = end if isinstance(end, BrokenPipeError) else end.__context__  # typer turns it into SystemExit
            if not isinstance(broken, BrokenPipeError):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())  # Python still flushes stdout when it exits
            sys.exit(_UNREAD)


def _reader_has_gone() -> bool:
    """Whether the standard output is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def load(run_file: Path, overrides: list[str] | None) -> Config:
    return load_config(run_file, tuple(overrides or ()))


def quieten() -> None:
    """Silences the libraries' start-up messages, not their errors. Call it before importing torch, vLLM and DeepSpeed."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("DeepSpeed", "torch._library.triton", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


class _WithLevel(logging.Formatter):
    """ "warning: data/sums: 2 of 8 own answers ..."."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


@contextmanager
def sentences(*, resumes: bool = False) -> Iterator[None]:
    """Prints errors and signals as one sentence each, and puts "warning:" before warnings. vlrl/cli/main.py lists the exit codes.

    resumes: the command keeps its finished work and says so after a signal.
    """
    if logging.lastResort:
        logging.lastResort.setFormatter(_WithLevel())
        logging.basicConfig(handlers=[logging.lastResort])  # else a library that calls it first chooses the form
    try:
        with interruptible(), _tell_other_ranks():
            yield
    except Interrupted as stop:
        if os.environ.get("RANK", "0") == "0":
            print(f"vlrl: {stop}{_CONTINUES if resumes and not stop.said else ''}", file=sys.stderr)
        raise typer.Exit(stop.exit_code) from None
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        if "VLRL_TRACEBACK" in os.environ or (isinstance(error, BrokenPipeError) and _reader_has_gone()):
            raise
        print(f"vlrl: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


@contextmanager
def _tell_other_ranks() -> Iterator[None]:
    """Ends the heartbeat with the block, and with its error, if there is one."""
    sentence, is_consequence = "", False
    try:
        yield
    except Interrupted as stop:
        sentence = "" if stop.said else str(stop)  # if it says what was saved, the ranks agreed to stop
        raise
    except Exception as error:
        sentence = str(error) or type(error).__name__
        is_consequence = any(word in f"{type(error).__name__} {error}" for word in _OF_A_COLLECTIVE)
        raise
    finally:
        while _heartbeat:
            _heartbeat.pop().end(sentence, is_consequence=is_consequence)


def open_run(config: Config, *, to_train: bool = True) -> Any:
    """Opens and checks the run. All ranks call it. The first rank makes the checks that need no torch before importing torch.

    A single rank first makes what the run file names and is missing: see vlrl.prepare.
    """
    if os.environ.get("RANK", "0") == "0":
        from vlrl.preflight.quick_checks import check_inputs
        from vlrl.prepare import missing, prepare, warn_of_outdated

        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            prepare(config)
        elif lacking := missing(config):
            raise ValueError(
                f"missing: {', '.join(lacking)}; {world_size} ranks would wait while one of them makes it, so make it first, "
                "without a launcher: vlrl prepare RUN.yaml"
            )
        else:
            warn_of_outdated(config)
        announce("Checking the data and the verifiers")
        check_inputs(config, world_size=world_size, to_train=to_train)
        announce("Loading PyTorch, then checking prompts and answers with the model's processor")
    quieten()
    from vlrl.distributed.ranks import join_ranks
    from vlrl.preflight.full_checks import preflight

    ranks = join_ranks(config.collective_timeout_s)
    _heartbeat.append(
        Heartbeat(
            ranks.rank,
            ranks.size,
            silent_s=config.heartbeat_s,
            wait_s=config.collective_timeout_s,
            folder=config.folder if to_train else None,
        )
    )
    return preflight(config, ranks, to_train=to_train)


def open_to_sample(run_file: Path, overrides: list[str] | None) -> Any:
    """Opens the run and checks only what sampling from its model needs. All ranks call it."""
    config = load(run_file, overrides)
    return open_run(config.model_copy(update={"coldstart": ColdStartConfig()}), to_train=False)
