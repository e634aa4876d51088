"""Memory and time from sizes: arithmetic that can be done by hand, and directions that must hold.

`benchmarks/roofline.py` holds predictions against measured steps.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tandem.training.roofline import (
    Cluster,
    ModelSize,
    Step,
    compare_layouts,
    forward_operations,
    predict_step,
)

MODEL = ModelSize(1_000_000, layers=4, width=128, vocabulary=1000, kv_width=64)
ONE = Cluster(1, 1, flops=1e9, bandwidth=1e9, memory=1e9, link=1e9, network=1e8)
STEP = Step(sequences=8, prompt=10, answer=5)


def test_operations_are_those_of_the_products():
    """2 a weight and token, the head at answers alone, and 4 L d a pair of tokens."""
    body = 1_000_000 - 128_000
    pairs = 8 * (50 + 5 * 12.5)
    expected = 2 * body * 120 + 2 * 128_000 * 40 + 4 * 4 * 128 * pairs
    assert forward_operations(MODEL, STEP) == pytest.approx(expected)


def test_a_shared_prompt_is_read_once():
    grouped = replace(STEP, group=8)
    assert grouped.tokens == 8 * 5 + 10
    assert forward_operations(MODEL, grouped) < forward_operations(MODEL, STEP)


def test_training_alone_has_no_links_and_takes_three_forward_passes():
    found = predict_step(MODEL, ONE, STEP, "one")
    assert found.seconds["train"] == pytest.approx(3 * forward_operations(MODEL, STEP) / 1e9)
    assert found.seconds["links"] == 0
    assert found.memory["moments"] == 8e6


def test_slices_halve_the_state_and_cost_links():
    two = replace(ONE, devices=2, overlaps=False)
    copied, sharded = (predict_step(MODEL, two, STEP, layout) for layout in ("ddp", "fsdp2"))
    assert sharded.memory["moments"] == copied.memory["moments"] / 2
    assert sharded.seconds["links"] == pytest.approx(3 * 4e6 / 2 / 1e9)
    assert copied.seconds["links"] == pytest.approx(2 * 4e6 / 2 / 1e9)
    assert sharded.seconds["train"] == copied.seconds["train"]


def test_adapters_move_and_remember_less():
    lora = replace(MODEL, trained=10_000)
    full, few = (predict_step(m, replace(ONE, devices=2), STEP) for m in (MODEL, lora))
    assert few.memory["moments"] < full.memory["moments"] / 50
    assert few.seconds["train"] < full.seconds["train"]


def test_a_model_that_no_device_holds_is_spread_and_the_quickest_that_fits_comes_first():
    big = ModelSize.of_parameters(70_000_000_000)
    assert big.layers == pytest.approx(80, rel=0.25)
    h100 = Cluster(8, 8, 989e12, 3.35e12, 80e9, 450e9, 50e9, efficiency=0.4)
    step = Step(sequences=1024, prompt=512, answer=512, group=8, micro_tokens=8192, recompute=True)
    first, *rest = compare_layouts(big, h100, step)
    assert first.layout == "fsdp2"
    assert first.fits
    assert not any(p.fits for p in rest)
    small = compare_layouts(ModelSize.of_parameters(500_000_000), h100, step)
    assert all(p.fits for p in small if p.layout != "one")
    assert small[-1].layout == "one"


def test_drawing_is_bound_by_memory_for_few_rows_and_by_products_for_many():
    def seconds(sequences: int, cluster: Cluster = ONE) -> float:
        step = Step(sequences, 10, 5, rollout=True)
        return predict_step(MODEL, cluster, step, "one").seconds["rollout"]

    slow = replace(ONE, bandwidth=1e6)
    assert seconds(2, slow) < 1.2 * seconds(1, slow)
    fast = replace(ONE, bandwidth=1e15)
    assert seconds(20, fast) == pytest.approx(20 * seconds(1, fast))
