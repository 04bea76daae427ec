"""Tallies: sums of counts and histograms, as sums of numbers."""

from hypothesis import given
from hypothesis import strategies as some

from happened.core.tally import BINS, count_in, quantile_us, ran_in, tally, waited_in

TIMES = some.lists(some.tuples(some.integers(0, 1 << 60), some.integers(0, 1 << 60)), max_size=50)


def counted(times: list[int]) -> list[int]:
    """Return a histogram, counted one by one."""
    bins = [0] * BINS
    for time in times:
        bins[min(time.bit_length(), BINS - 1)] += 1
    while bins and not bins[-1]:
        bins.pop()
    return bins


@given(TIMES)
def test_a_sum_of_tallies_is_the_tally_of_all(times: list[tuple[int, int]]) -> None:
    """Count and both histograms are those of all times, in whatever order they came."""
    total = sum(tally(*one) for one in times)

    assert count_in(total) == len(times)
    assert waited_in(total) == counted([waited for waited, _ in times])
    assert ran_in(total) == counted([ran for _, ran in times])


@given(TIMES, TIMES)
def test_the_whole_less_a_part_is_the_rest(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    """So a stretch is a longer one without its ends."""
    whole = sum(tally(*times) for times in one + other)

    assert whole - sum(tally(*times) for times in one) == sum(tally(*times) for times in other)


@given(some.lists(some.integers(0, 1 << 40), min_size=1), some.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_at_most_twice_what_it_should_be(times: list[int], share: float) -> None:
    """The true time lies between half of what is said and that."""
    said = quantile_us(waited_in(sum(tally(time, 0) for time in times)), share)

    true = sorted(times)[max(0, -int(-share * len(times) // 1) - 1)]
    assert said is not None
    assert said / 2 <= true <= said


def test_nothing_has_no_quantile() -> None:
    """Where nothing was counted there is no time to say."""
    assert quantile_us(waited_in(0), 0.5) is None
