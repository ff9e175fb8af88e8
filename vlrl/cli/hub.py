"""vlrl push: a trained model goes to the Hugging Face hub with its card."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from vlrl.cli.shared import quieten, sentences
from vlrl.common.folder_lock import held
from vlrl.telemetry.progress import announce


def push(
    run: Annotated[Path, typer.Argument(help="The folder of a run that has ended, such as runs/cpu.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the hub, or NAME for one of your own.")] = "",
    adapter: Annotated[bool, typer.Option(help="Push the adapter that a LoRA run trained, not the merged model.")] = False,
    checkpoint: Annotated[int | None, typer.Option(help="Push the model after this step, which must have a checkpoint.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    branch: Annotated[str, typer.Option("--branch", "--revision", help="A branch, made if missing. Default: main.")] = "",
    message: Annotated[str, typer.Option(help="The commit's message.")] = "",
    base_model: Annotated[
        str, typer.Option(help="The hub's name of the model that the run began with, if the run file names a folder.")
    ] = "",
    licence: Annotated[str, typer.Option("--license", help="The model's licence, as the hub names it, such as apache-2.0.")] = "",
    to: Annotated[Path | None, typer.Option(help="Only write this folder, and upload nothing.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only write RUN/push, and upload nothing.")] = False,
) -> None:
    """Uploads a run's model with a model card to the Hugging Face hub: data, settings, curves and evaluation are in the card.

    A second push uploads only what changed. The token is that of `hf auth login`, or HF_TOKEN.
    """
    with sentences():
        from vlrl.hub.finished import read_finished
        from vlrl.hub.folder import write_folder
        from vlrl.hub.upload import full_name, upload
        from vlrl.report.read import check_is_run

        is_upload = to is None and not dry_run
        if is_upload and not repo:
            raise ValueError("name the repository on the hub: vlrl push RUN OWNER/NAME; or only write a folder: --to FOLDER")
        if checkpoint is not None:
            quieten()
        check_is_run(run)
        with held(run, doing="pushed", remedy="push another run"):
            # First, so that a token that is refused is known at once.
            name = full_name(repo) if is_upload else _example_name(repo or run.resolve().name)
            finished = read_finished(run, adapter=adapter, base=base_model, checkpoint=checkpoint)
            folder = to or run / "push"
            if to is None:
                shutil.rmtree(folder, ignore_errors=True)
            files = write_folder(finished, folder, repo=name, branch=branch, licence=licence)
            megabytes = sum(file.stat().st_size for file in files) / 1e6
            announce(f"{folder}: {len(files)} files, {megabytes:.1f} MB, with the card in README.md")
            if not licence:
                announce("The card names no licence; give it with --license, such as apache-2.0")
            if is_upload:
                what = f"{finished.kind.capitalize()} of run {finished.config.name}, step {finished.summary['steps']}"
                print(upload(folder, name, private=private, branch=branch, message=message or what))


def _example_name(repo: str) -> str:
    """A name for the commands in a card that is not uploaded."""
    return repo if "/" in repo else f"OWNER/{repo}"
