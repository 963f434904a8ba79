"""How long commits wait, in a simulated time: many devices, few, and devices that wait for their receipts."""

import random
from collections.abc import Callable

import pytest

from gateway.gathering import ENOUGH, PROBE_EVERY, SILENCE_MIN_S, Gathering

WINDOW_S = 0.1
COMMIT_S = 0.003  # verifying and the disk


def commit(gathering: Gathering, now: float, arrivals: list[float]) -> tuple[int, float]:
    """Take a commit from sorted arrivals as the link does: returns how many messages, and when it was taken."""
    began = max(now, arrivals[0])
    taken, count = began, sum(arrival <= began for arrival in arrivals)
    silence = gathering.silence_s
    while count < ENOUGH:
        wait_until = min(began + WINDOW_S, taken + silence)
        if count < len(arrivals) and arrivals[count] <= wait_until:
            taken = arrivals[count]
            count += 1
        else:
            taken = wait_until
            break
    gathering.note(arrivals[:count], taken)
    return count, taken


def open_loop(interval: Callable[[], float], seconds: float = 60.0) -> list[int]:
    """Messages come whatever the gateway does; returns the sizes of commits, without the first tenth."""
    arrivals, now = [], 0.0
    while now < seconds:
        now += interval()
        arrivals.append(now)
    gathering, sizes, now = Gathering(WINDOW_S), [], 0.0
    while arrivals:
        count, taken = commit(gathering, now, arrivals)
        sizes.append(count)
        del arrivals[:count]
        now = taken + COMMIT_S
    return sizes[len(sizes) // 10 :]


def closed_loop(devices: int, commits: int = 500) -> tuple[float, Gathering]:
    """Each device sends when it has its receipt; returns the mean time from message to receipt, and the state."""
    gathering, ready, waits, now = Gathering(WINDOW_S), [0.0] * devices, [], 0.0
    for _ in range(commits):
        ready.sort()
        count, taken = commit(gathering, now, ready)
        now = taken + COMMIT_S
        waits += [now - arrival for arrival in ready[:count]]
        ready[:count] = [now + 0.001 * number / devices for number in range(1, count + 1)]
    return sum(waits) / len(waits), gathering


def mean(sizes: list[int]) -> float:
    return sum(sizes) / len(sizes)


def test_regular_messages_fill_the_window() -> None:
    assert mean(open_loop(lambda: 0.01)) >= 9


@pytest.mark.parametrize("rate", [100, 300, 1_000])
def test_messages_at_random_do_so_nearly(rate: int) -> None:
    draw = random.Random(rate)
    assert mean(open_loop(lambda: draw.expovariate(rate))) >= min(7, 0.07 * rate)


def test_a_high_rate_waits_for_no_more_than_enough() -> None:
    draw = random.Random(1)
    sizes = open_loop(lambda: draw.expovariate(10_000), 5.0)
    assert ENOUGH <= mean(sizes) < 60


def test_a_message_now_and_then_waits_for_the_window_at_most() -> None:
    assert mean(open_loop(lambda: 5.0, 600.0)) == 1


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_devices_that_wait_for_their_receipts_are_hardly_delayed(devices: int) -> None:
    waits, gathering = closed_loop(devices)
    assert waits < 2.5 * (SILENCE_MIN_S + COMMIT_S)
    silences = []
    for _ in range(PROBE_EVERY):
        silences.append(gathering.silence_s)
        gathering._commits += 1
    assert sum(silence > SILENCE_MIN_S for silence in silences) <= 1 or max(silences) <= 2.5 * SILENCE_MIN_S


def test_many_devices_that_begin_to_send_on_their_own_are_gathered_again() -> None:
    """It is tried again now and then whether waiting pays."""
    _, gathering = closed_loop(1)
    arrivals = [1_000 + 0.01 * number for number in range(20_000)]
    sizes, now = [], 0.0
    while arrivals:
        count, taken = commit(gathering, now, arrivals)
        sizes.append(count)
        del arrivals[:count]
        now = taken + COMMIT_S
    assert mean(sizes[-50:]) >= 9


def test_no_window_is_no_waiting() -> None:
    gathering = Gathering(0.0)
    gathering.note([1.0, 2.0], 2.0)
    assert gathering.silence_s == 0.0
