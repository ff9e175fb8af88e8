"""Trains Qwen-VL models by reinforcement learning: `vlrl train RUN.yaml`, and commands for the work before and after a run.

Exit codes: 0 for success; 1 if a comparison or a check fails; 2 for an error, which is printed as one sentence (set
VLRL_TRACEBACK=1 for the traceback); 3 if another rank was lost or failed; 143 after SIGTERM, 130 after Ctrl-C, 141 if the reader
of a pipe has gone. Under torchrun every failure becomes torchrun's own 1.
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vlrl.cli.data import data
from vlrl.cli.end_of_run import print_end, print_evaluation
from vlrl.cli.hub import push
from vlrl.cli.init import init
from vlrl.cli.replica import replica
from vlrl.cli.shared import SETTINGS, App, Overrides, RunFile, load, open_run, open_to_sample, quieten, sentences
from vlrl.cli.tasks import new, rescore, try_task, verify
from vlrl.common.folder_lock import held
from vlrl.common.versions import versions
from vlrl.distributed.status import STATUS, shows_life
from vlrl.distributed.status import status as status_of
from vlrl.models.config_json import FAMILIES
from vlrl.run_file import dump_config

HELP = {"help_option_names": ["-h", "--help"]}  # sub-commands inherit it
app = App(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__, context_settings=HELP)


def _print_version(wanted: bool) -> None:
    if wanted:
        for name, version in versions().items():
            print(f"{name} {version}")
        raise typer.Exit


@app.callback(help=__doc__)
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Prints the versions of vlrl and its parts.")
    ] = False,
) -> None:
    """Handles --version, the only option that belongs to no command."""


@app.command(context_settings=SETTINGS, epilog="Example: vlrl train configs/cpu.yaml name=twice steps=50 mixture.digits.weight=2")
def train(run_file: RunFile, overrides: Overrides = None) -> None:
    """Trains as the run file says, or resumes a run that was stopped.

    On SIGTERM or Ctrl-C the run saves its state and exits with 143 or 130. The same command resumes it.
    """
    with sentences(resumes=True):
        config = load(run_file, overrides)
        alive = partial(shows_life, config.folder)
        with held(config.folder, doing="trained", remedy="choose another name", is_alive=alive):
            run = open_run(config)
            if config.threads:
                import torch

                torch.set_num_threads(config.threads)
            from vlrl.train import train as run_training

            summary = run_training(run)
        if run.ranks.is_first:
            print_end(config, summary)


@app.command(context_settings=SETTINGS, epilog="Example: vlrl prepare configs/cpu.yaml")
def prepare(run_file: RunFile, overrides: Overrides = None) -> None:
    """Makes the data sets and the tiny model that the run file's `build` names and that are missing.

    `vlrl train` in one process does the same at its start; several ranks need it done before.
    """
    with sentences(resumes=True):
        from vlrl.prepare import prepare as prepare_inputs

        prepare_inputs(load(run_file, overrides))


@app.command(context_settings=SETTINGS, epilog="Example: vlrl plan configs/cpu.yaml mixture.digits.weight=2 --steps 4")
def plan(
    run_file: RunFile,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(help="Number of steps to show.")] = 8,
    all_settings: Annotated[bool, typer.Option("--all", help="Print every setting, including those at their default.")] = False,
    memory: Annotated[
        bool, typer.Option(help="Print what the run will hold in memory, on disk and in its logs instead.")
    ] = False,
    gpus_per_host: Annotated[
        int | None, typer.Option(help="With --memory: ranks of a host. Default: torchrun's, else 1.")
    ] = None,
    hosts: Annotated[int | None, typer.Option(help="With --memory: number of hosts. Default: torchrun's, else 1.")] = None,
    gpu_gb: Annotated[float | None, typer.Option(help="With --memory: memory of a GPU, as 80. Default: plan for CPUs.")] = None,
    host_gb: Annotated[
        float | None, typer.Option(help="With --memory: memory of a host. Default: unknown; on CPUs this machine's.")
    ] = None,
) -> None:
    """Prints how many prompts of each task the first steps and their mini-batches draw, each task's epochs, and the settings."""
    with sentences():
        config = load(run_file, overrides)
        if memory:
            quieten()
            from vlrl.cli.memory import machine_of, memory_lines, sizes_of

            machine = machine_of(gpus_per_host=gpus_per_host, hosts=hosts, gpu_gb=gpu_gb, host_gb=host_gb)
            for line in memory_lines(config, sizes_of(config), machine):
                print(line)
            return
        from vlrl.cli.plan import plan as plan_of
        from vlrl.prepare import build_missing_rows

        build_missing_rows(config)
        for line in plan_of(config, steps):
            print(line)
        print(f"\n{'All settings' if all_settings else 'Settings that differ from their defaults (all: --all)'}:\n")
        print(dump_config(config, defaults=all_settings), end="")


@app.command(
    name="eval",
    context_settings=SETTINGS,
    epilog="Example: vlrl eval configs/cpu.yaml model=runs/cpu/model evaluation.samples=8 --out runs/cpu/eval",
)
def evaluate(
    run_file: RunFile,
    out: Annotated[Path, typer.Option(help="Folder for the rows' rewards and the summary.")],
    overrides: Overrides = None,
) -> None:
    """Evaluates the run file's model on its tasks' held-out rows: avg@k and pass@k. Resumes an evaluation that was stopped.

    An OUT folder belongs to one model, one version of each verifier and one set of sampling settings.
    """
    with sentences(resumes=True), held(out, doing="written", remedy="give another --out"):
        from vlrl.evaluation.records import finished_evaluation

        if (out / "config.yaml").exists():
            raise ValueError(f"--out {out} is the folder of a run; give one of its own, as {out / 'eval'}")
        config = load(run_file, overrides)
        is_alone = "RANK" not in os.environ  # under torchrun, ranks could find different files and then wait for one another
        if is_alone and (found := finished_evaluation(config, out)):
            print_evaluation(config.model, found)
            print(f"{out} already has every row with the same settings; nothing was sampled")
            return
        run = open_to_sample(run_file, overrides)
        from vlrl.evaluation.evaluate import run_evaluation

        results = run_evaluation(run, out)
        if run.ranks.is_first:
            print_evaluation(config.model, results)


@app.command(epilog="Example: vlrl compare runs/one/eval runs/two/eval --max-drop 2")
def compare(
    first: Annotated[Path, typer.Argument(help="The OUT folder of one vlrl eval.")],
    second: Annotated[Path, typer.Argument(help="The OUT folder of another model's vlrl eval on the same rows.")],
    max_drop: Annotated[
        float | None, typer.Option(help="Exit with 1 if a task got worse by more than this many standard errors.")
    ] = None,
) -> None:
    """Compares two evaluations row by row: each task's difference with its 95 % interval and the p-value of a paired t-test.

    With --max-drop it exits with 1 on a regression, for use in scripts.
    """
    with sentences():
        from vlrl.evaluation.compare import compared, regressed

        comparisons = compared(first, second)
    table = Table("task", "rows", "second - first", "standard errors", "p", "no verdict")
    for task, found in comparisons.items():
        change = f"{found.difference.mean:+.3f} ± {found.difference.interval:.3f}"
        errors, p = f"{found.difference.standard_errors:+.1f}", f"{found.difference.p:.3f}"
        table.add_row(task, str(found.difference.rows), change, errors, p, "{} and {}".format(*found.failed))
    Console().print(table)
    if max_drop is not None and (worse := regressed(comparisons, max_drop)):
        print(f"regression: {', '.join(worse)} got worse by more than {max_drop:g} standard errors")
        raise typer.Exit(1)


@app.command(context_settings=SETTINGS, epilog="Example: vlrl study configs/studies/tau.yaml")
def study(
    file: Annotated[Path, typer.Argument(help="The study's file; configs/studies/ has examples.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs. Default: runs/studies/NAME.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time, which share this machine.", min=1)] = 1,
) -> None:
    """Runs every arm of a comparison with every seed, or resumes it. Writes its tables and one page of curves.

    Where the file has `tune`, each arm's best value of that setting is chosen first, by runs with other seeds.
    """
    with sentences(resumes=True):
        from vlrl.study import load_study, run_study, write_results

        plan, folder = load_study(file), out or Path("runs/studies") / file.stem
        with held(folder, doing="run", remedy="give another --out"):
            failed = run_study(plan, folder, overrides or (), jobs)
        print(write_results(plan, folder))
        print(f"The table is also in {folder}/study.md, the curves are in {folder}/study.html")
    if failed:
        print(f"These runs failed: {', '.join(failed)}; the reason is in {folder}/NAME.log")
        raise typer.Exit(1)


@app.command(epilog="Example: vlrl report runs/cpu; while it trains: vlrl report --serve runs/cpu")
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, such as runs/cpu. The curves of several runs are overlaid.")],
    out: Annotated[Path | None, typer.Option(help="File for the page. Default: report.html in the first run's folder.")] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve a page that follows the runs while they train; they may begin later.")
    ] = False,
    port: Annotated[int, typer.Option(help="With --serve: the port; 0 for any free one.", min=0, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="With --serve: the address to serve at. Default: this machine only.")] = "127.0.0.1",
) -> None:
    """Writes one HTML page about a run: curves, gate weights, step times, and a browser for its rollouts.

    With --serve the page also says whether the run is well and what each rank does, and keeps itself up to date.
    """
    with sentences():
        if serve and out:
            raise ValueError("--serve writes no file; leave --out out, or write the page without --serve")
        if serve:
            from vlrl.report.serve import serve_report

            serve_report(runs, host, port)
            return
        from vlrl.report.read import check_is_run

        for folder in runs:
            check_is_run(folder)
        from vlrl.report.page import write_report

        path = out or runs[0] / "report.html"
        print(f"{path}: {write_report(runs, path) / 1e6:.1f} MB")


@app.command(epilog="Example: vlrl status runs/cpu")
def status(run: Annotated[Path, typer.Argument(help="The run's folder, such as runs/cpu.")]) -> None:
    """Prints what each rank of a running run does now, its step and the time left. Exits with 1 if the run is not running."""
    with sentences():
        from vlrl.report.read import check_is_run

        if not (run / STATUS).exists():
            check_is_run(run)
        is_running, lines = status_of(run)
        for line in lines:
            print(line)
    if not is_running:
        raise typer.Exit(1)


@app.command(
    context_settings=SETTINGS,
    epilog="Example: vlrl doctor; on two hosts: torchrun --nnodes 2 ... -m vlrl.cli doctor configs/qwen3vl_8b.yaml",
)
def doctor(
    run_file: Annotated[Path | None, typer.Argument(help="Under torchrun: a run file, whose folders all hosts must see.")] = None,
    overrides: Overrides = None,
) -> None:
    """Prints which of the things that a run needs this machine has.

    Under torchrun it compares the hosts: packages, folders, clocks, and whether they reach one another. Exits with 1 on a fault.
    """
    with sentences():
        from vlrl.cli.doctor import compare
        from vlrl.cli.doctor import doctor as lines

        config = load(run_file, overrides) if run_file else None
        is_first = os.environ.get("RANK", "0") == "0"
        for line in lines() if is_first else ():
            print(line)
        faults = compare(config) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else []
        for fault in faults if is_first else ():
            print(fault)
        if "RANK" in os.environ and is_first and not faults:
            print("hosts: agree, and reach one another")
    if faults:
        raise typer.Exit(1)


@app.command(epilog="Example: vlrl tiny models/moe --family qwen3_vl_moe --texts data/chain_sum/train --texts data/digits/train")
def tiny(
    folder: Annotated[Path, typer.Argument(help="Folder for the checkpoint.")],
    texts: Annotated[
        list[Path] | None,
        typer.Option(help="A data set to train the tokenizer on; can be repeated. Default: every data/*/train."),
    ] = None,
    family: Annotated[str, typer.Option(help=f"Family of the model: {', '.join(FAMILIES)}.")] = "qwen3_vl",
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
) -> None:
    """Makes a tiny random model, which runs on a laptop. Trains its tokenizer on the first 500 rows of each data set."""
    with sentences():
        from vlrl.data.shards import MANIFEST
        from vlrl.prepare import learned_from, texts_of

        if family not in FAMILIES:
            raise ValueError(f"--family {family}: no such family; choose from {', '.join(FAMILIES)}")
        folders = texts or [path.parent for path in sorted(Path("data").glob(f"*/train/{MANIFEST}"))]
        if not folders:
            raise ValueError("there is no data set in data/; build the data sets first: vlrl prepare configs/cpu.yaml")
        learned = texts_of(folders)
        from vlrl.models.tiny import build_tiny

        count = build_tiny(folder, learned, seed=seed, family=FAMILIES[family])
        learned_from(folder, folders)
        print(f"{folder}: {count / 1e6:.2f} M parameters; its tokenizer learned from {', '.join(map(str, folders))}")


app.command(epilog="Example: vlrl init my")(init)
app.command(epilog="Example: VLRL_TOKEN=... vlrl replica --listen 10.0.0.2:5601")(replica)
app.command(epilog="Example: vlrl push runs/cpu kim/digits --license apache-2.0")(push)
app.add_typer(data, name="data")
app.add_typer(new, name="new")
app.command(epilog="Example: vlrl verify dots --cases cases.jsonl")(verify)
app.command(epilog="Example: vlrl rescore runs/cpu --task functions")(rescore)
app.command(name="try", epilog="Example: vlrl try dots --rows data/dots/eval")(try_task)


if __name__ == "__main__":
    app()
