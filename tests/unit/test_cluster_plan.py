"""`tandem plan --params`: a step on a cluster, on paper."""

from __future__ import annotations

import re

import pytest

from tandem.cli import main
from tandem.cli.cluster_plan import GPUS, ClusterPlan
from tandem.errors import ConfigError
from tandem.training.roofline import compare_layouts


def test_the_quickest_layout_that_fits_is_named(capsys):
    words = ["--params=1.5B", "--gpus=8", "--gpu=h200", "--recompute=true"]
    assert main(["plan", *words]) == 0
    told = capsys.readouterr().out
    assert "1.5 billion weights" in told
    assert "nothing of this was measured" in told
    plan = ClusterPlan("1.5B", gpu="h200", recompute=True)
    found = compare_layouts(plan.model, plan.cluster, plan.step)
    assert told.rstrip().endswith(f"best: {found[0].layout}")
    for layout in found:
        gib = sum(layout.memory.values()) / 2**30
        assert f"{layout.layout}: {gib:,.1f} of" in told


def test_what_does_not_fit_says_what_makes_it_smaller(capsys):
    words = ["--params=70B", "--nodes=8"]
    assert main(["plan", *words]) == 1
    told = capsys.readouterr().out
    advice = told.rpartition("smaller: ")[2]
    assert re.findall(r"--\w+", advice) == ["--recompute", "--lora", "--nodes", "--micro_tokens"]


def test_advice_that_is_taken_makes_it_smaller():
    plan = ClusterPlan("8B")
    for change in ({"recompute": True}, {"lora": 16}, {"micro_tokens": 8192}, {"nodes": 2}):
        less = ClusterPlan("8B", **change)  # type: ignore[arg-type]
        sizes = [
            sum(next(p for p in compare_layouts(x.model, x.cluster, x.step) if p.layout == "fsdp2")
                .memory.values())
            for x in (plan, less)
        ]  # fmt: skip
        assert sizes[1] < sizes[0], change


def test_adapters_have_the_weights_of_a_real_model():
    """SmolLM2-135M with rank 16 on all linear layers: 4.88 M of 30 layers of width 576."""
    assert pytest.approx(4.88e6, rel=0.05) == 16 * 17.5 * 576 * 30


@pytest.mark.parametrize("text", ["135M", "1.5b", "7B ", "0.135 B", "70000000"])
def test_sizes_are_read_as_people_write_them(text):
    assert ClusterPlan(text).model.parameters >= 70_000_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--params=7X"], "--params 7X"),
        (["--params=-7B"], "--params -7B"),
        (["--params=1e400"], "--params 1e400"),
        (["--params=9K"], "from 100K"),
        (["--params=7B", "--gpu=h10"], "Did you mean `h100`"),
        (["--params=7B", "--gpus=0"], "gpus = 0"),
        (["--params=7B", "--efficiency=2"], "efficiency = 2"),
        (["--gpus=8"], "give --params"),
        (["--parms=7B"], "Did you mean `params`"),
    ],
)
def test_a_plan_that_is_none_is_refused(words, said, capsys):
    assert main(["plan", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "do:" in told


def test_every_device_has_a_sheet():
    for gpu in GPUS:
        cluster = ClusterPlan("7B", gpu=gpu).cluster
        assert min(cluster.flops, cluster.bandwidth, cluster.memory, cluster.link) > 1e9
    with pytest.raises(ConfigError, match="name one of"):
        ClusterPlan("7B", gpu="abacus")
