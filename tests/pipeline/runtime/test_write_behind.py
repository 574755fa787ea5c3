"""Writing behind keeps order, never holds more than one piece, and hides no error."""

import threading

import pytest

from pipeline.runtime.write_behind import WriteBehind


def fail():
    raise ZeroDivisionError


def test_pieces_are_done_in_order_and_all_of_them_by_the_end():
    done = []
    with WriteBehind() as behind:
        for number in range(20):
            behind.submit(lambda number=number: done.append(number))
    assert done == list(range(20))
    assert not any("write-behind" in thread.name for thread in threading.enumerate())


def test_the_producer_goes_on_while_one_piece_is_done_and_waits_at_the_second():
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
        assert second.is_alive(), "a second piece was taken while the first was under way"
        release.set()
        second.join(10)
        assert not second.is_alive()


def test_an_error_is_raised_at_the_next_piece_or_at_the_end():
    with WriteBehind() as behind:
        behind.submit(fail)
        with pytest.raises(ZeroDivisionError):
            behind.submit(lambda: None)
    with pytest.raises(ZeroDivisionError), WriteBehind() as behind:
        behind.submit(fail)


def test_the_producers_own_error_is_the_one_that_is_seen():
    def produce():
        with WriteBehind() as behind:
            behind.submit(fail)
            raise KeyError

    with pytest.raises(KeyError):
        produce()
