"""``ReadAhead`` and ``WriteBehind`` keep order, raise errors in the right place and end their threads."""

import itertools
import threading
import time

import pytest

from pipeline.runtime.background import ReadAhead, WriteBehind


def num_threads(name: str) -> int:
    return sum(name in thread.name for thread in threading.enumerate())


def test_read_ahead_keeps_the_order_and_ends_its_thread():
    with ReadAhead(range(50)) as stream:
        assert list(stream) == list(range(50))
    assert num_threads("read-ahead") == 0


def test_read_ahead_raises_an_error_in_place_of_the_item():
    def items():
        yield from range(3)
        raise ZeroDivisionError

    with ReadAhead(items()) as stream:
        seen = []
        with pytest.raises(ZeroDivisionError):
            seen.extend(stream)
    assert seen == [0, 1, 2]
    assert num_threads("read-ahead") == 0


def test_leaving_an_endless_read_ahead_early_ends_its_thread():
    with ReadAhead(itertools.count()) as stream:
        assert next(iter(stream)) == 0
    assert num_threads("read-ahead") == 0


def test_read_ahead_makes_only_a_few_items_ahead():
    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i

    with ReadAhead(items(), depth=3) as stream:
        next(iter(stream))
    assert len(made) <= 5


def test_read_ahead_measures_how_long_it_waits_for_slow_items():
    def items():
        for i in range(3):
            time.sleep(0.05)
            yield i

    with ReadAhead(items()) as stream:
        list(stream)
    assert stream.wait_s > 0.1


def fail():
    raise ZeroDivisionError


def test_write_behind_does_all_pieces_in_order_and_ends_its_thread():
    done = []
    with WriteBehind() as behind:
        for number in range(20):
            behind.submit(lambda number=number: done.append(number))
    assert done == list(range(20))
    assert num_threads("write-behind") == 0


def test_the_producer_runs_during_one_piece_and_waits_before_the_second():
    release, begun = threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert release.wait(10)

    with WriteBehind() as behind:
        behind.submit(slow)
        assert begun.wait(10)
        second = threading.Thread(target=behind.submit, args=(lambda: None,))
        second.start()
        second.join(0.05)
        assert second.is_alive(), "the second piece started before the first one was done"
        release.set()
        second.join(10)
        assert not second.is_alive()


def test_write_behind_raises_an_error_at_the_next_piece_or_at_the_end():
    with WriteBehind() as behind:
        behind.submit(fail)
        with pytest.raises(ZeroDivisionError):
            behind.submit(lambda: None)
    with pytest.raises(ZeroDivisionError), WriteBehind() as behind:
        behind.submit(fail)


def test_an_error_of_the_producer_hides_the_error_of_a_piece():
    def produce():
        with WriteBehind() as behind:
            behind.submit(fail)
            raise KeyError

    with pytest.raises(KeyError):
        produce()
