"""How often a child is started again."""

from nla_launch.run.restarts import LIMIT, WINDOW_S, Restarts


def test_pauses_grow_and_the_sixth_in_ten_minutes_is_one_too_many() -> None:
    restarts = Restarts()
    assert [restarts.next_pause(10.0 * k) for k in range(LIMIT)] == [1, 2, 4, 8, 16]
    assert restarts.next_pause(60) is None


def test_what_worked_in_between_counts_for_ten_minutes_only() -> None:
    restarts = Restarts()
    for k in range(20):
        assert restarts.next_pause(k * WINDOW_S / (LIMIT - 1)) is not None
        restarts.worked()


def test_slow_starts_that_come_to_nothing_are_not_tried_for_ever() -> None:
    restarts = Restarts()
    assert sum(restarts.next_pause(2 * k * WINDOW_S) is not None for k in range(20)) == LIMIT
