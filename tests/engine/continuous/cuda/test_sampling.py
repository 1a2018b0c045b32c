"""The device's sampler against the host's: what may be drawn, how often, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from palma.core.types import SamplingParams
from palma.engine.continuous.cuda.sampling import DeviceSampler
from palma.engine.sampler import candidates

NUM_SLOTS = 8
HAS_GPU = torch.cuda.is_available()
NUM_DRAWS = 20_000 if HAS_GPU else 32
NUM_SLOW_DRAWS = 20_000 if HAS_GPU else 12
"""With top_k: the interpreter takes 60 ms for one, else 10 to 20."""

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
GREEDY = SamplingParams(temperature=0)

LIKELY = {0: 0.25, 20: 0.2, 70: 0.15, 71: 0.12, 640: 0.1, 777: 0.08, 998: 0.06, 999: 0.04}
"""Probabilities of a few of 1,000 tokens, some of them in the same group."""

RICH = [
    SamplingParams(seed=1),
    SamplingParams(seed=1, top_k=7),
    SamplingParams(seed=1, top_p=0.7),
    SamplingParams(seed=1, min_p=0.3),
    SamplingParams(seed=1, temperature=3, top_k=50, top_p=0.6, min_p=0.02),
]


def name_of(params: SamplingParams) -> str:
    """Return what is not at its default, to name a test by."""
    fields = dataclasses.fields(SamplingParams)
    default = SamplingParams()
    values = {f.name: getattr(params, f.name) for f in fields}
    return ", ".join(f"{k} {v}" for k, v in values.items() if v != getattr(default, k))


def normal(num_rows: int, vocab_size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random logits with a few likely tokens."""
    generator = torch.Generator().manual_seed(vocab_size)
    return (torch.randn(num_rows, vocab_size, generator=generator) * 3).to(dtype)


def likely_logits(weight_of_rest: float) -> torch.Tensor:
    """Return logits (1000,), bfloat16, whose weights are near LIKELY and shared by the rest."""
    weights = torch.full((1000,), weight_of_rest / (1000 - len(LIKELY)))
    weights[list(LIKELY)] = torch.tensor(list(LIKELY.values()))
    return (weights.log() + 5).to(torch.bfloat16)


def sample(
    sampler: DeviceSampler,
    logits: torch.Tensor,
    device: torch.device,
    *,
    slots: list[int] | None = None,
    positions: list[int] | None = None,
) -> list[int]:
    """Return the chosen ids; slots and positions are 0, 1, 2, ... unless told."""
    rows = range(len(logits))
    chosen = sampler.sample(
        logits.to(device),
        torch.tensor(list(rows) if slots is None else slots, dtype=torch.int32, device=device),
        torch.tensor(list(rows) if positions is None else positions, device=device),
    )
    assert chosen.dtype == torch.int64
    return chosen.tolist()


def draw_often(
    logits: torch.Tensor, params: SamplingParams, device: torch.device, num_draws: int
) -> list[int]:
    """Return one token for each of many positions, from the same logits."""
    sampler = DeviceSampler(NUM_SLOTS, device)
    sampler.set([5], [params])
    rows = logits.to(device).expand(num_draws, -1)
    return sample(sampler, rows, device, slots=[5] * num_draws, positions=list(range(num_draws)))


def support(logits: torch.Tensor, params: SamplingParams) -> dict[int, float]:
    """Return the host's candidates and their probabilities."""
    weights, ids = candidates(logits.float(), params)
    return dict(zip(ids.tolist(), (weights / weights.sum()).tolist(), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab_size", [1, 37, 1000, 4099])
def test_greedy_takes_the_first_of_the_likeliest(
    vocab_size: int, dtype: torch.dtype, device: torch.device
) -> None:
    logits = normal(3, vocab_size, dtype)
    logits[1] = logits[1].round()  # many ties
    logits[2] = -7

    chosen = sample(DeviceSampler(NUM_SLOTS, device), logits, device)

    assert chosen == [int((row == row.max()).nonzero()[0]) for row in logits]


def test_greedy_tells_bfloat16_neighbours_apart(device: torch.device) -> None:
    logits = torch.full((1, 300), 100.0, dtype=torch.bfloat16)
    logits[0, 200] = 100.5

    assert sample(DeviceSampler(NUM_SLOTS, device), logits, device) == [200]


def test_rows_may_be_part_of_wider_ones(device: torch.device) -> None:
    wide = normal(4, 1100, torch.bfloat16)
    wide[:, 1000:] = 1000

    chosen = sample(DeviceSampler(NUM_SLOTS, device), wide[1:, :1000], device)

    assert chosen == wide[1:, :1000].float().argmax(-1).tolist()


def test_no_rows_choose_nothing(device: torch.device) -> None:
    assert sample(DeviceSampler(NUM_SLOTS, device), torch.zeros(0, 37), device) == []


@pytest.mark.parametrize("params", [GREEDY, *RICH[:2], RICH[-1]], ids=name_of)
def test_a_row_that_is_no_number_is_minus_one_and_its_neighbours_are_unharmed(
    params: SamplingParams, device: torch.device
) -> None:
    sampler = DeviceSampler(NUM_SLOTS, device)
    sampler.set([0], [params])
    logits = normal(2, 1000, torch.bfloat16)
    bad = logits[:1].repeat(4, 1)
    bad[0, 999] = torch.nan
    bad[1, 0] = -torch.nan
    bad[2, 500] = torch.inf
    bad[3] = -torch.inf
    rows = torch.cat([bad[:2], logits, bad[2:]])

    chosen = sample(sampler, rows, device, slots=[0] * 6, positions=[0, 0, 8, 9, 0, 0])

    alone = sample(sampler, logits, device, slots=[0, 0], positions=[8, 9])
    assert chosen == [-1, -1, *alone, -1, -1]
    assert min(alone) >= 0


@pytest.mark.parametrize("params", [GREEDY, *RICH, SamplingParams(top_k=900)], ids=name_of)
def test_what_is_minus_infinity_is_never_chosen(
    params: SamplingParams, device: torch.device
) -> None:
    sampler = DeviceSampler(NUM_SLOTS, device)
    sampler.set([0], [params])
    logits = torch.full((2, 1000), -torch.inf)
    logits[0, 700] = -50.0
    logits[1, [7, 130, 999]] = torch.tensor([-0.25, 0.0, 0.25])

    chosen = sample(sampler, logits, device, slots=[0, 0])

    assert chosen[0] == 700
    assert chosen[1] in {7, 130, 999}


@pytest.mark.parametrize("params", [RICH[0], RICH[-1]], ids=name_of)
def test_seed_and_position_decide_and_neither_row_nor_neighbours(
    params: SamplingParams, device: torch.device
) -> None:
    sampler = DeviceSampler(NUM_SLOTS, device)
    sampler.set([0, 3, 6], [params, dataclasses.replace(params, seed=2), params])
    logits = normal(1, 1000).expand(6, -1)
    positions = [10, 11, 12, 13, 14, 15]

    together = sample(sampler, logits, device, slots=[0] * 6, positions=positions)
    mixed = sample(
        sampler, logits, device, slots=[6, 3, 1, 6, 0, 6], positions=[15, 10, 10, 13, 12, 10]
    )
    alone = sample(sampler, logits[:1], device, slots=[6], positions=[14])

    assert [mixed[5], mixed[4], mixed[3], *alone, mixed[0]] == [
        together[i] for i in (0, 2, 3, 4, 5)
    ]
    assert len(set(together)) > 1


@pytest.mark.parametrize("other", [-1, 2**62, 2**32, 1, None])
def test_another_seed_gives_other_tokens(other: int | None, device: torch.device) -> None:
    sampler = DeviceSampler(NUM_SLOTS, device)
    sampler.set([0, 1], [SamplingParams(seed=0), SamplingParams(seed=other)])
    logits = torch.zeros(6, 1000)
    positions = [0, 1, 2, 0, 1, 2]

    chosen = sample(sampler, logits, device, slots=[0, 0, 0, 1, 1, 1], positions=positions)

    assert chosen[:3] != chosen[3:]


def test_without_a_seed_each_sequence_has_its_own(device: torch.device) -> None:
    sampler = DeviceSampler(NUM_SLOTS, device)
    sampler.set([0, 1], [SamplingParams(), SamplingParams()])
    logits = torch.zeros(4, 1000)

    chosen = sample(sampler, logits, device, slots=[0, 0, 1, 1], positions=[0, 1, 0, 1])

    assert chosen[:2] != chosen[2:]


def test_a_slot_takes_its_next_sequence_and_leaves_the_others_alone(device: torch.device) -> None:
    sampler = DeviceSampler(NUM_SLOTS, device)
    logits = torch.zeros(2, 1000)
    sampler.set([0, 1], [SamplingParams(seed=5), SamplingParams(seed=6)])
    before = sample(sampler, logits, device, positions=[1, 1])

    sampler.set([], [])
    sampler.set([0], [GREEDY])

    assert sample(sampler, logits, device, positions=[1, 1]) == [0, before[1]]
    assert before[0] != 0


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=1),
        SamplingParams(seed=2, temperature=0.4),
        SamplingParams(seed=3, top_p=0.26),
        SamplingParams(seed=4, top_k=4),
        SamplingParams(seed=5, top_k=4, top_p=0.7),  # three tokens; four if not renormalized
        SamplingParams(seed=6, temperature=0.5, min_p=0.15),
        SamplingParams(seed=7, temperature=1.5, top_k=6, top_p=0.9, min_p=0.5),
    ],
    ids=name_of,
)
def test_tokens_come_as_often_as_on_the_host(params: SamplingParams, device: torch.device) -> None:
    is_bounded = params.top_k or params.top_p < 1 or params.min_p
    logits = likely_logits(2.0 if is_bounded else 1e-9)  # so that most first draws are refused
    num_draws = NUM_SLOW_DRAWS if params.top_k else NUM_DRAWS
    expected = support(logits, params)

    drawn = draw_often(logits, params, device, num_draws)

    assert set(drawn) <= set(expected)
    frequent = {i: p * num_draws for i, p in expected.items() if p * num_draws > 1}
    assert set(drawn) >= {i for i, n in frequent.items() if n > 4}
    chi_square = sum((drawn.count(i) - n) ** 2 / n for i, n in frequent.items())
    num_free = max(1, len(frequent) - 1)
    assert chi_square < num_free + 4 * (2 * num_free) ** 0.5 + 4


def test_the_last_of_the_candidates_may_come_first(device: torch.device) -> None:
    logits = torch.full((200,), -torch.inf)
    logits[[3, 40]] = torch.tensor([0.1, 0.0])

    for bound in ({"top_k": 2}, {"top_p": 0.6}, {"min_p": 0.9}):
        drawn = draw_often(logits, SamplingParams(seed=1, **bound), device, num_draws=8)
        assert set(drawn) == {3, 40}


def test_temperature_weighs_groups_and_the_tokens_in_them(device: torch.device) -> None:
    """As softmax of ten times the logits: token 150 in 45 of 100 draws, 1 to 63 in 0.3."""
    logits = torch.full((200,), -torch.inf)
    logits[:64] = -1.0
    logits[[0, 150]] = torch.tensor([0.0, -0.02])

    drawn = draw_often(logits, SamplingParams(seed=1, temperature=0.1), device, num_draws=24)

    assert set(drawn) == {0, 150}
    assert 5 < drawn.count(150) < 18


def test_temperature_weighs_what_is_drawn_from_the_candidates_alone(device: torch.device) -> None:
    """Most first draws are below min_p; token 0 then has 0.7 of the weight, 40 others the rest."""
    logits = torch.full((4099,), -0.6)
    logits[::100] = -0.45
    logits[0] = 0.0
    params = SamplingParams(seed=1, temperature=0.1, min_p=0.005)

    drawn = draw_often(logits, params, device, num_draws=24)

    assert set(drawn) <= set(range(0, 4099, 100))
    assert 12 < drawn.count(0) < 23
    assert min(token_id for token_id in drawn if token_id) < 2000


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_top_k_may_ask_for_more_tokens_than_are_possible(
    top_p: float, device: torch.device
) -> None:
    logits = torch.full((1000,), -torch.inf, dtype=torch.bfloat16)
    logits[[3, 300, 999]] = -1.0
    params = SamplingParams(seed=1, top_k=7, top_p=top_p)

    assert set(draw_often(logits, params, device, num_draws=6)) == {3, 300, 999}


def test_a_nucleus_may_be_wide(device: torch.device) -> None:
    """Of 4,099 tokens nearly as likely, half are in it."""
    shuffled = torch.randperm(4099, generator=torch.Generator().manual_seed(0))
    logits = shuffled / 4099
    params = SamplingParams(seed=1, top_p=0.5)

    drawn = draw_often(logits, params, device, num_draws=500 if HAS_GPU else 8)

    assert set(drawn) <= set(support(logits, params))


def test_a_long_flat_tail_is_drawn_from(device: torch.device) -> None:
    """Half of the weight is one token's, half is shared by 4,098 others."""
    logits = torch.zeros(4099)
    logits[2000] = torch.tensor(4098.0).log()

    drawn = draw_often(logits, SamplingParams(seed=3), device, num_draws=50)

    assert 12 < drawn.count(2000) < 38
    assert len(set(drawn)) > 12
    assert min(drawn) < 1000
    assert max(drawn) > 3000


@pytest.mark.parametrize(
    ("dtype", "offset"), [(torch.bfloat16, -40), (torch.float16, 0), (torch.float32, -40)]
)
@pytest.mark.parametrize(
    "params",
    [
        {"top_k": 1},
        {"top_k": 3},
        {"top_k": 90},  # more than there are groups
        {"top_k": 40, "top_p": 0.5},
        {"top_p": 0.3, "min_p": 0.01},
    ],
    ids=str,
)
def test_only_candidates_are_drawn(
    params: dict[str, Any], offset: float, dtype: torch.dtype, device: torch.device
) -> None:
    """At a high temperature, so that nearly every first draw is none."""
    logits = (normal(1, 4099)[0] + offset).to(dtype)
    likely = SamplingParams(seed=1, temperature=2, **params)
    expected = support(logits, likely)
    least = min(logits[list(expected)])
    allowed = (logits >= least).nonzero()[:, 0].tolist()  # the host cuts a nucleus through ties

    drawn = draw_often(logits, likely, device, num_draws=500 if HAS_GPU else 1)

    assert set(drawn) <= set(allowed)


@pytest.mark.parametrize(
    ("dtype", "likely", "rest"),
    [
        (torch.bfloat16, -1.0, -1.0 - 2**-7),
        (torch.float16, 1.0 + 2**-10, 1.0),
        (torch.float32, -1.0, -1.0 - 2**-23),
        (torch.float32, 0.0, -1e-30),
    ],
)
def test_all_that_tie_with_the_kth_may_come_and_nothing_just_below(
    dtype: torch.dtype, likely: float, rest: float, device: torch.device
) -> None:
    logits = torch.full((200,), rest, dtype=dtype)
    logits[[3, 150, 199]] = likely
    if likely == 0:
        logits[150] = -0.0
    params = SamplingParams(seed=1, temperature=10, top_k=2)

    assert set(draw_often(logits, params, device, num_draws=7)) == {3, 150, 199}


def test_all_that_tie_at_the_edge_of_a_nucleus_may_come(device: torch.device) -> None:
    logits = torch.full((200,), -torch.inf)
    logits[[3, 66, 150, 199]] = torch.tensor([0.4, 0.25, 0.25, 0.1]).log()

    drawn = draw_often(logits, SamplingParams(seed=1, top_p=0.5), device, num_draws=20)

    assert set(drawn) == {3, 66, 150}


@pytest.mark.parametrize(
    "params",
    [
        {"top_k": 1},
        {"top_p": 5e-324},
        {"min_p": 1.0},
        {"temperature": 5e-324},
        {"temperature": 1e-40},
        {"temperature": 1e-9, "top_p": 0.5, "top_k": 2**40},
    ],
    ids=str,
)
def test_the_extremes_leave_only_the_likeliest(
    params: dict[str, Any], device: torch.device
) -> None:
    logits = normal(1, 1000)[0] * 1e4

    drawn = draw_often(logits, SamplingParams(seed=9, **params), device, num_draws=3)

    assert set(drawn) == {int(logits.argmax())}


def test_a_top_k_of_the_vocabulary_or_more_keeps_all(device: torch.device) -> None:
    sampler = DeviceSampler(NUM_SLOTS, device)
    params = [SamplingParams(seed=1, top_k=k) for k in (0, 37, 38, 2**40)]
    sampler.set([0, 1, 2, 3], params)
    logits = torch.zeros(4, 37)

    assert len(set(sample(sampler, logits, device, positions=[4] * 4))) == 1


HOST_ONLY: dict[str, Any] = {
    "min_tokens": 1,
    "typical_p": 0.9,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "logit_bias": {3: 1.0},
    "text_bias": {"a": 1.0},
    "num_logprobs": 0,
    "mirostat": 2,
}
HONOURED: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 3,
}
ABOUT_ANOTHER: dict[str, Any] = {
    "max_tokens": 5,  # the engine's
    "stop_token_ids": frozenset({1}),  # the engine's, and `min_tokens`'
    "ignore_eos": True,  # the same
    "repetition_window": 5,  # `repetition_penalty`'s
    "mirostat_tau": 1.0,  # `mirostat`'s
    "mirostat_eta": 0.5,  # `mirostat`'s
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(SamplingParams)])
def test_takes_every_field_or_refuses_it(name: str) -> None:
    value = {**HOST_ONLY, **HONOURED, **ABOUT_ANOTHER}[name]

    assert DeviceSampler.takes(SamplingParams(**{name: value})) == (name not in HOST_ONLY)


@pytest.mark.parametrize("name", HOST_ONLY)
def test_greedy_is_refused_too_unless_the_field_leaves_it_alone(name: str) -> None:
    params = SamplingParams(**{"temperature": 0, name: HOST_ONLY[name]})

    assert DeviceSampler.takes(params) == (name in {"typical_p", "mirostat"})


@pytest.mark.gpu
def test_a_captured_graph_draws_again_without_a_wait_for_the_device() -> None:
    device = torch.device("cuda")
    sampler = DeviceSampler(NUM_SLOTS, device)
    logits = normal(5, 4099, torch.bfloat16).to(device)
    slots = torch.arange(5, dtype=torch.int32, device=device)
    positions = torch.zeros(5, dtype=torch.int32, device=device)
    params = [dataclasses.replace(p, temperature=2) for p in RICH]
    sampler.set(list(range(5)), params)
    sampler.sample(logits, slots, positions)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        chosen = sampler.sample(logits, slots, positions)
    torch.cuda.synchronize()

    replayed = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            positions += 1
            sampler.set(list(range(5)), params)
            graph.replay()
            replayed.append((chosen.clone(), sampler.sample(logits, slots, positions)))
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert all(torch.equal(captured, eager) for captured, eager in replayed)
    assert len({tuple(captured.tolist()) for captured, _ in replayed}) > 10
