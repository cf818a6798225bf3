"""Ranks that wait for each other: all come, one is late, one ends, a stranger knocks."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from paddle_dla.launching import meeting
from paddle_dla.launching.meeting import LostRankError, Meeting, connect

pytestmark = pytest.mark.any_paddle


class Exchange:
    """What stands for the collective: every rank gets the values of all."""

    def __init__(self, count):
        self._values, self._barrier = [None] * count, threading.Barrier(count, timeout=10)

    def of(self, rank):
        def exchange(value):
            self._values[rank] = value
            self._barrier.wait()
            return list(self._values)

        return exchange


def nothing():
    pass


@pytest.fixture
def together():
    """Call a function of rank and meeting on so many ranks at once; what each returned or raised."""
    with ThreadPoolExecutor(8) as pool:

        def run(count, function, pulse=nothing, **options):
            exchange = Exchange(count)

            def one(rank):
                joined = connect(rank, count, "127.0.0.1", exchange.of(rank), pulse, **options)
                try:
                    return function(rank, joined)
                finally:
                    joined.close()

            futures = [pool.submit(one, rank) for rank in range(count)]
            return [future.exception(timeout=20) or future.result() for future in futures]

        yield run


@pytest.mark.parametrize("count", [2, 3, 8])
def test_nobody_goes_on_before_all_have_come(together, count):
    come = [0] * count

    def rounds(rank, joined):
        for number in range(1, 51):
            come[rank] = number
            joined.wait()
            if min(come) < number:
                return f"rank {rank} went on in round {number}"
        return None

    assert together(count, rounds) == [None] * count


@pytest.mark.parametrize("late", [0, 1, 2])
def test_a_rank_that_waits_shows_that_it_lives(together, monkeypatch, late):
    monkeypatch.setattr(meeting, "PULSE", 0.02)
    pulses = []

    def slowly(rank, joined):
        time.sleep(0.3 if rank == late else 0)
        joined.wait()

    assert together(3, slowly, pulse=lambda: pulses.append(None)) == [None] * 3
    assert len(pulses) > 5


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_the_end_of_a_rank_ends_the_wait_of_all_others_and_names_it(together, gone):
    def leave(rank, joined):
        joined.wait()
        if rank != gone:
            joined.wait()

    ends = together(3, leave)
    assert ends[gone] is None
    assert [end.rank for rank, end in enumerate(ends) if rank != gone] == [gone, gone]


def test_a_wait_has_the_limit_that_it_is_given(together, monkeypatch):
    monkeypatch.setattr(meeting, "PULSE", 0.02)

    def rarely(rank, joined):
        if rank == 2:
            time.sleep(1)
        joined.wait()

    ends = together(3, rarely, limit=0.2)
    assert isinstance(ends[0], LostRankError) and ends[0].rank == 2


def test_a_stranger_is_turned_away_and_does_no_harm(together):
    knocked = []

    class Knocking(Exchange):
        def of(self, rank):
            exchange = super().of(rank)

            def knock(value):
                values = exchange(value)
                if rank == 1:
                    for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"x" * 1000):
                        with socket.create_connection(("127.0.0.1", values[0][1])) as stranger:
                            stranger.sendall(said)
                            knocked.append(said)
                return values

            return knock

    exchange = Knocking(2)
    with ThreadPoolExecutor(2) as pool:
        links = list(pool.map(lambda rank: connect(rank, 2, "127.0.0.1", exchange.of(rank), nothing), range(2)))
        assert list(pool.map(Meeting.wait, links)) == [None, None]
    assert len(knocked) == 3
    for link in links:
        link.close()


def test_a_rank_that_does_not_connect_is_named(together, monkeypatch):
    monkeypatch.setattr(meeting, "CONNECT", 0.3)
    exchange = Exchange(3)

    def connects(rank):
        return connect(rank, 3, "127.0.0.1", exchange.of(rank), nothing)

    with ThreadPoolExecutor(3) as pool:
        first, second = pool.submit(connects, 0), pool.submit(connects, 2)
        pool.submit(exchange.of(1), None)
        assert first.exception(timeout=10).rank == 1
        second.result(timeout=10).close()
