"""Small checkpoints, saved, damaged and looked for."""

from pathlib import Path

from vlrl.distributed.checkpoint import newest_good, save


def write_weights(folder: Path) -> None:
    (folder / "policy").mkdir(exist_ok=True)
    (folder / "policy" / "weights.pt").write_bytes(bytes(range(256)) * 20)
    (folder / "optimizer.pt").write_bytes(b"momentum" * 100)


def save_steps(root: Path, *steps: int, keep: int = 2) -> None:
    for step in steps:
        save(root, step, write_weights, {"seed": step}, keep=keep)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def newest_step(root: Path) -> int:
    found = newest_good(root)
    assert found is not None
    return found.step


def flipped(folder: Path) -> None:
    content = bytearray((folder / "policy" / "weights.pt").read_bytes())
    content[1234] ^= 1
    (folder / "policy" / "weights.pt").write_bytes(content)


class CrashError(Exception):
    pass


def crash(*args, **kwargs):
    raise CrashError
