r"""The leader's check asks for an estimate: no one share of every lead passes in any draw, each honest way in all. The
judge: what is missing.
"""

import functools

import pytest

from coursekit.checks.which_method import CONCLUDE, LEADER, conclude, leader


@functools.cache
def posed():
    return [LEADER.posing(f"draw {n}".encode()) for n in range(40)]


def scored(answer):
    return [LEADER.scored(posing, {"leader": answer(*posing.arguments)}) for posing in posed()]


def lead_kept(runs, share):
    means = runs.mean(-1)
    return means.mean(-1) + share * (means.amax(-1) - means.mean(-1))


@pytest.mark.parametrize("share", [0.5, 0.6, 2 / 3, 0.75, 0.9])
def test_one_share_of_every_lead_gets_no_points(share):
    found = scored(lambda runs: lead_kept(runs, share))
    assert {one.share for one in found} == {0.0}
    assert all("the same share of every lead" in one.message for one in found)


def test_nor_does_one_share_estimated_from_all_tasks_together_or_hidden_in_noise():
    def pooled(runs):
        return lead_kept(runs, 1 - (runs.var(-1) / 3).mean() / runs.mean(-1).var(-1).mean())

    assert {one.share for one in scored(pooled)} == {0.0}
    hidden = scored(lambda runs: lead_kept(runs, 2 / 3) + 1e-4 * runs[:, :, 0, 0])
    assert max(one.share for one in hidden) < 0.75


def test_a_share_from_a_table_alone_is_too_uncertain():
    def alone(runs):
        share = 1 - (runs.var(-1) / 3).mean(-1) / runs.mean(-1).var(-1)
        return lead_kept(runs, share.clamp(0))

    assert max(one.share for one in scored(alone)) < 1


def seeds_against_seeds(runs):
    r"""The share from the covariance of two seeds' accuracies, in which there is no noise of either."""
    off = runs - runs.mean(2, keepdim=True)
    common = sum((off[..., i] * off[..., j]).sum((1, 2)) for i, j in ((0, 1), (0, 2), (1, 2))) / 3
    return lead_kept(runs, (common / off.mean(-1).square().sum((1, 2)))[:, None])


def towards_the_task(runs):
    r"""Towards the mean of all tables of the task, which is more than is asked."""
    means, noise = runs.mean(-1), runs.var(-1).mean((1, 2)) / 3
    middle = means.mean((1, 2))[:, None]
    share = (1 - noise / means.flatten(1).var(-1)).clamp(0)[:, None]
    return middle + share * (means.amax(-1) - middle)


def stein(runs):
    r"""James and Stein's factor for twelve means."""
    means, noise = runs.mean(-1), runs.var(-1).mean((1, 2)) / 3
    return lead_kept(runs, (1 - 9 / 11 * noise / means.var(-1).mean(1)).clamp(0)[:, None])


def in_single_precision(runs):
    return leader(runs)["leader"].float()


@pytest.mark.parametrize("way", [seeds_against_seeds, towards_the_task, stein, in_single_precision])
def test_every_honest_way_gets_all_points(way):
    assert {one.share for one in scored(way)} == {1.0}


def test_with_one_registered_seed_nothing_is_missing_and_nothing_can_be_said():
    runs = (("lora", 3, 0.8), ("ia3", 3, 0.7), ("ia3", 4, 0.9))
    assert conclude(runs, "lora", "ia3", (3,), 0.02, 2.306) == ("no clear difference", pytest.approx(0.1), 1.0)
    assert conclude(runs, "lora", "ia3", (3, 4), 0.02, 2.306) == ("incomplete", pytest.approx(0.0), 1.0)
    assert len([case for case in CONCLUDE.cases(b"secret", 8) if len(case[3]) == 1]) == 1
