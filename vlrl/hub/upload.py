"""Uploads a folder to the Hugging Face hub, with one sentence for each thing that can go wrong.

huggingface_hub's upload_folder is the only way for every size: with hf_xet it uploads in parallel, sends only chunks that the hub
lacks, and commits large folders in parts; without it, only files that changed. So the same command continues an upload that
broke off. Its other way for large folders, upload_large_folder, is no longer in version 2.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAIT_S = 120.0
"""The longest wait for an answer of the hub, or for it to take more bytes. huggingface_hub itself would wait without limit. It
repeats requests of an upload five times."""
# Files of an earlier push that would be loaded in place of the new ones, such as a shard more, or an adapter.
_REPLACED = ["model*.safetensors", "model.safetensors.index.json", "adapter_*"]
_CONTINUES = "the same command continues with what is missing"


def full_name(repo: str) -> str:
    """OWNER/NAME for NAME, with the token's owner. ValueError for a name that is not valid, and a token missing or refused."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"REPO {repo!r} is not a name on the hub ({_short(error)}); write OWNER/NAME") from None
    with _sentences(repo):
        if not get_token():
            raise ValueError("there is no token of the Hugging Face hub; run `hf auth login`, or set HF_TOKEN")
        account = _api().whoami()
    return repo if "/" in repo else f"{account['name']}/{repo}"


def upload(folder: Path, repo: str, *, private: bool, branch: str, message: str) -> str:
    """Makes the repository and the branch if they are missing, and uploads the folder in one commit; returns its address.

    Weights of an earlier push that the folder does not have are deleted. Raises ValueError if the hub refuses, if it does not
    answer, and for `private` with a repository that is public.
    """
    api = _api()
    with _sentences(repo):
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise ValueError(
                f"{repo} exists and is public, so --private cannot hold; make it private in its settings, or name another"
            )
        if branch:
            api.create_branch(repo, branch=branch, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=branch or None,
            commit_message=message,
            delete_patterns=_REPLACED,
        )
    return str(done.commit_url)


def _api() -> Any:
    from huggingface_hub import HfApi, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def impatient() -> Any:
        client = default_client_factory()
        client.timeout = WAIT_S
        return client

    set_client_factory(impatient)
    return HfApi(library_name="vlrl")


@contextmanager
def _sentences(repo: str) -> Iterator[None]:
    """ValueError, one sentence, for what the hub or the network answers in the block."""
    try:
        yield
    except Exception as error:  # of this module, of the hub, of httpx, of hf_xet
        raise ValueError(_sentence(error, repo)) from error


def _sentence(error: Exception, repo: str) -> str:
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    cause = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error
    response = getattr(cause, "response", None)
    status = getattr(response, "status_code", None)
    said = getattr(cause, "server_message", None) or _short(cause)
    if status == 401:
        return "the hub refuses the token (401); make one with write permission in your settings there, then run `hf auth login`"
    if status == 403:
        return (
            f"the token may not write to {repo} (403: {said}); name a repository of your own, or use a token with write "
            "permission"
        )
    if status == 404:
        return (
            f"the hub has no {repo} that this token may see (404: {said}); check the name, the branch and the token's permissions"
        )
    if status is not None and status >= 500:
        return f"the hub failed ({status}: {said}); {_CONTINUES}"
    if status is not None:
        return f"the hub refuses the upload to {repo} ({status}: {said})"
    if isinstance(cause, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, or write a folder only: --to FOLDER"
    if isinstance(cause, HTTPError | ConnectionError | TimeoutError):
        return f"the hub does not answer ({type(cause).__name__}: {said}); check the network and HF_ENDPOINT, then {_CONTINUES}"
    if type(cause) is ValueError:
        return str(cause)
    return f"the upload to {repo} failed ({type(cause).__name__}: {said}); {_CONTINUES}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
