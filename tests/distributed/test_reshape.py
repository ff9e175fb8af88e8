"""Parameters written in some parts are read back in any others; what is missing or of another model is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlrl.distributed.reshape import Flat, Part, load, save

SIZES = {"a": 7, "b": 1, "c": 12}


def held_by(ranks: int, pads: list[int]) -> list[list[Flat]]:
    """Each rank's flat tensors: a share of every parameter, with padding between them, and the whole of a frozen one, d."""
    flats = []
    for rank in range(ranks):
        parts, start = [], 0
        for (name, size), pad in zip(SIZES.items(), pads, strict=True):
            first, end = size * rank // ranks, size * (rank + 1) // ranks
            parts += [Part(name, first, start + pad, end - first)] if end > first else []
            start += pad + end - first
        flats.append(
            [Flat(weight=torch.full((start,), -1.0), parts=parts), Flat(weight=torch.zeros(2, 2), parts=[Part("d", 0, 0, 4)])]
        )
    return flats


def filled(flats: list[Flat], step: int) -> None:
    """Gives each element a number that says where it belongs, and the first flat tensor moments if there were steps."""
    for flat in flats:
        for part in flat.parts:
            numbers = torch.arange(part.first, part.end) + 100.0 * "abcd".index(part.name)
            flat.weight.view(-1)[part.start : part.start + part.numel] = numbers
    if step:
        flats[0].state.update(exp_avg=flats[0].weight * 10, step=torch.tensor(float(step)))


def elements(flats: list[list[Flat]], key: str) -> dict[str, list[float]]:
    """Each parameter's elements in order, of its weight or a moment."""
    found: dict[str, dict[int, float]] = {}
    for flat in (flat for each in flats for flat in each):
        values = flat.weight if key == "weight" else flat.state.get(key)
        for part in flat.parts if values is not None else ():
            numbers = values.view(-1)[part.start : part.start + part.numel].tolist()
            found.setdefault(part.name, {}).update(enumerate(numbers, start=part.first))
    return {name: [each[place] for place in sorted(each)] for name, each in found.items()}


def written(folder, ranks: int, pads: list[int], step: int) -> list[list[Flat]]:
    flats = held_by(ranks, pads)
    for rank, each in enumerate(flats):
        filled(each, step)
        save(folder, rank, [each[0], *([each[1]] if rank == 0 else [])], SIZES | {"d": 4}, {"version": step})
    return flats


pads = st.lists(st.integers(0, 3), min_size=3, max_size=3)


@given(before=st.integers(1, 6), after=st.integers(1, 6), pads_before=pads, pads_after=pads, step=st.integers(0, 2))
def test_any_number_of_ranks_reads_what_any_other_has_written(tmp_path_factory, before, after, pads_before, pads_after, step):
    folder = tmp_path_factory.mktemp("saved")
    old, new = written(folder, before, pads_before, step), held_by(after, pads_after)
    for rank, flats in enumerate(new):
        flats[0].state.update(exp_avg=flats[0].weight, step=99)  # of a future that the run has left
        assert load(folder, rank, flats, SIZES | {"d": 4}) == {"version": step}
        assert [flat.state.get("step", 0) for flat in flats if flat.parts and flat.state] == [step] * bool(
            step and flats[0].parts
        )
        assert (flats[0].weight == -1.0).sum() == sum(pads_after), "padding is left as it was"
    assert elements(new, "weight") == elements(old, "weight")
    assert elements(new, "exp_avg") == elements(old, "exp_avg")


def test_a_rank_of_the_same_layout_reads_its_own_file_alone(tmp_path):
    written(tmp_path, 3, [0, 0, 0], 1)
    for rank in (0, 1):
        (tmp_path / f"rank-{rank:05d}.pt").write_bytes(b"not to be read")
    mine = held_by(3, [0, 0, 0])[2][:1]
    load(tmp_path, 2, mine, SIZES | {"d": 4})
    assert elements([mine], "weight")["c"] == [208.0, 209.0, 210.0, 211.0]


def test_a_file_that_is_not_there_is_missed(tmp_path):
    written(tmp_path, 3, [0, 0, 0], 1)
    (tmp_path / "rank-00001.pt").unlink()
    with pytest.raises(ValueError, match=r"is not whole: its 2 files rank-\*.pt lack 2 elements of a; remove this checkpoint"):
        load(tmp_path, 0, held_by(1, [0, 0, 0])[0], SIZES | {"d": 4})
    with pytest.raises(ValueError, match="its 0 files"):
        load(tmp_path / "none", 0, held_by(1, [0, 0, 0])[0], SIZES | {"d": 4})


@pytest.mark.parametrize("other", [{"a": 8}, {"e": 1}])
def test_the_parameters_of_another_model_are_refused(tmp_path, other):
    written(tmp_path, 1, [0, 0, 0], 0)
    with pytest.raises(ValueError, match="is of another model: [ae] has [07] elements in it, [18] in the run's model"):
        load(tmp_path, 0, held_by(1, [0, 0, 0])[0], SIZES | {"d": 4} | other)
