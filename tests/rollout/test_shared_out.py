"""How prompts are shared out among replicas."""

from hypothesis import given
from hypothesis import strategies as st

from vlrl.rollout.engine import Decoding, Request
from vlrl.rollout.replicas import shared_out


def requests(tokens: list[list[int]]) -> list[Request]:
    """tokens: by slot and sample, how many it may have."""
    return [
        Request(slot=slot, sample=sample, prompt=None, max_new_tokens=most, decoding=Decoding(temperature=1.0), seed=0)
        for slot, samples in enumerate(tokens)
        for sample, most in enumerate(samples)
    ]


SAMPLES = st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=4), min_size=1, max_size=30)


@given(SAMPLES, st.integers(1, 5))
def test_no_replica_has_more_than_another_by_more_than_its_last_prompt(tokens, replicas) -> None:
    place = shared_out(requests(tokens), replicas)
    assert set(place) == set(range(len(tokens)))
    by_replica = [[sum(tokens[slot]) for slot in place if place[slot] == number] for number in range(replicas)]
    for mine in by_replica:
        assert not mine or sum(mine) - min(mine) <= min(map(sum, by_replica))


@given(st.integers(1, 30), st.integers(1, 5))
def test_prompts_of_equal_length_go_round(count, replicas) -> None:
    place = shared_out(requests([[24] * 3] * count), replicas)
    assert place == {slot: slot % replicas for slot in range(count)}
