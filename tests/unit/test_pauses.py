"""What fails again and again is let alone for longer and longer, and for no longer than that."""

from __future__ import annotations

from metrics_service.db import pauses as module
from metrics_service.db.pauses import Pauses


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_pause_is_twice_as_long_each_time_until_it_goes_well():
    clock = Clock()
    pauses = Pauses(0.5, 1.0, 1.5, clock=clock)

    lengths = []
    for _ in range(4):
        pauses.begin("a")
        begun = clock.now
        while pauses.holds("a"):
            clock.now += 0.125
        lengths.append(clock.now - begun)
    pauses.end("a")
    assert not pauses.holds("a")
    pauses.begin("a")
    clock.now += 0.5

    assert lengths == [0.5, 1.0, 1.5, 1.5]
    assert not pauses.holds("a")


def test_the_first_time_may_be_forgiven():
    clock = Clock()
    pauses = Pauses(0, 0.25, 8, clock=clock)

    pauses.begin("a")
    assert not pauses.holds("a")
    pauses.begin("a")
    assert pauses.holds("a")
    clock.now += 0.25
    assert not pauses.holds("a")
    pauses.begin("a")
    clock.now += 0.25
    assert pauses.holds("a")


def test_many_that_fail_together_make_one_pause():
    clock = Clock()
    pauses = Pauses(0.5, 1, 8, clock=clock)

    for _ in range(10):
        pauses.begin("a")
    clock.now += 0.5

    assert not pauses.holds("a")


def test_a_pause_is_of_one_alone():
    pauses = Pauses(0.5, 1, 8, clock=Clock())

    pauses.begin("a")

    assert pauses.holds("a")
    assert not pauses.holds("b")


def test_it_remembers_so_many(monkeypatch):
    monkeypatch.setattr(module, "MAX_PAUSES", 3)
    pauses = Pauses(0.5, 1, 8, clock=Clock())

    for name in "abcd":
        pauses.begin(name)

    assert len(pauses) == 3
    assert not pauses.holds("a")
    assert pauses.holds("d")
