"""Reading ahead keeps order and errors, measures waiting, and ends with its consumer."""

import itertools
import threading
import time

import pytest

from pipeline.runtime.read_ahead import ReadAhead


def threads() -> int:
    return sum("read-ahead" in thread.name for thread in threading.enumerate())


def test_items_come_in_order_and_the_thread_ends():
    with ReadAhead(range(50)) as stream:
        assert list(stream) == list(range(50))
    assert threads() == 0


def test_an_error_comes_where_its_item_would_have():
    def items():
        yield from range(3)
        raise ZeroDivisionError

    with ReadAhead(items()) as stream:
        seen = []
        with pytest.raises(ZeroDivisionError):
            seen.extend(stream)
    assert threads() == 0


def test_leaving_early_ends_the_thread_though_there_is_no_last_item():
    with ReadAhead(itertools.count()) as stream:
        assert next(iter(stream)) == 0
    assert threads() == 0


def test_only_a_few_items_are_made_ahead():
    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i

    with ReadAhead(items(), depth=3) as stream:
        next(iter(stream))
    assert len(made) <= 5


def test_waiting_for_slow_items_is_measured():
    def items():
        for i in range(3):
            time.sleep(0.05)
            yield i

    with ReadAhead(items()) as stream:
        list(stream)
    assert stream.wait_s > 0.1
