"""The thread count follows what the steps take."""

from __future__ import annotations

from palma.engine.continuous.thread_chooser import MAX_INTERVAL, ThreadChooser


def run(chooser: ThreadChooser, seconds: dict[int, float], num_steps: int) -> list[int]:
    """Take steps that last as long as their thread count makes them."""
    counts = []
    for _ in range(num_steps):
        counts.append(chooser.choose())
        chooser.note(seconds[counts[-1]])
    return counts


def test_on_a_quiet_machine_nearly_all_steps_use_all_threads() -> None:
    counts = run(ThreadChooser(4), {4: 1.0, 3: 1.3}, 10 * MAX_INTERVAL)

    assert 0 < counts.count(3) < 0.015 * len(counts)


def test_a_busy_neighbour_takes_a_thread_away_and_gives_it_back() -> None:
    chooser = ThreadChooser(2)

    run(chooser, {2: 1.0, 1: 1.5}, 4 * MAX_INTERVAL)
    run(chooser, {2: 2.5, 1: 1.5}, 30)
    while_busy = chooser.preferred
    run(chooser, {2: 2.5, 1: 1.5}, 4 * MAX_INTERVAL)
    run(chooser, {2: 1.0, 1: 1.5}, 2 * MAX_INTERVAL)

    assert (while_busy, chooser.preferred) == (1, 2)


def test_one_lucky_trial_changes_nothing() -> None:
    chooser = ThreadChooser(2)
    for _ in range(10):
        chooser.note(1.0)
        if chooser.choose() == 1:
            break

    chooser.note(0.1)
    run(chooser, {2: 1.0, 1: 1.5}, MAX_INTERVAL)

    assert chooser.preferred == 2


def test_a_small_gain_is_none() -> None:
    chooser = ThreadChooser(2)

    run(chooser, {2: 1.0, 1: 0.95}, 10 * MAX_INTERVAL)

    assert chooser.preferred == 2


def test_a_single_thread_is_never_on_trial() -> None:
    assert set(run(ThreadChooser(1), {1: 1.0}, 3 * MAX_INTERVAL)) == {1}
