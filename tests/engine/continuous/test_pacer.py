"""The budget of prompt tokens follows what the steps have cost."""

from __future__ import annotations

from palma.engine.continuous.pacer import MIN_TOKENS, TOKENS_A_WAITING, PrefillPacer


def test_without_anybody_decoding_or_anything_known_the_budget_is_whole() -> None:
    pacer = PrefillPacer(512)

    assert pacer.budget(anybody_decodes=True) == 512
    pacer.note_decode(0.1)
    pacer.note_prefill(100, 1.0)
    assert pacer.budget(anybody_decodes=False) == 512


def test_prompts_get_as_much_time_as_decoding_takes() -> None:
    pacer = PrefillPacer(512)
    pacer.note_decode(0.5)
    pacer.note_prefill(100, 1.0)

    assert pacer.budget(anybody_decodes=True) == 50


def test_the_budget_is_never_too_small_to_pay_nor_beyond_its_bound() -> None:
    slow, fast = PrefillPacer(512), PrefillPacer(512)
    for pacer, seconds in ((slow, 100.0), (fast, 1e-6)):
        pacer.note_decode(0.1)
        pacer.note_prefill(100, seconds)

    assert slow.budget(anybody_decodes=True) == MIN_TOKENS
    assert fast.budget(anybody_decodes=True) == 512


def test_newer_measurements_count_more() -> None:
    pacer = PrefillPacer(10_000)
    pacer.note_prefill(1, 0.001)
    for _ in range(20):
        pacer.note_decode(1.0)
    before = pacer.budget(anybody_decodes=True)
    for _ in range(20):
        pacer.note_decode(0.1)

    assert before > 900
    assert pacer.budget(anybody_decodes=True) < 120


def test_prompts_get_more_room_the_more_sequences_wait_for_their_first_token() -> None:
    pacer = PrefillPacer(512)
    pacer.note_decode(0.5)
    pacer.note_prefill(100, 1.0)

    assert pacer.budget(anybody_decodes=True, num_waiting=0) == 50
    assert pacer.budget(anybody_decodes=True, num_waiting=10) == 50 + 10 * TOKENS_A_WAITING
    assert pacer.budget(anybody_decodes=True, num_waiting=1000) == 512
