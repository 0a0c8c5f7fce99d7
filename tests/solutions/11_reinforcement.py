"""Reference answers of notebook 11_reinforcement, as a student would write them."""

import re

import torch


def reinforcement_advantages(rewards):
    mean = rewards.mean(dim=1, keepdim=True)
    std = rewards.std(dim=1, keepdim=True)
    return (rewards - mean) / (std + 1e-4)


def reinforcement_clipped(logps, old, advantages, epsilon):
    ratio = torch.exp(logps - old)
    advantages = advantages.unsqueeze(1)
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + epsilon)
    return -torch.min(ratio * advantages, clipped * advantages)


def reinforcement_parts(was, now, before, after):
    gained = after - before
    kinds = [now & ~was, was & now, was & ~now, ~was & ~now]
    return [gained[kind].sum() / len(gained) for kind in kinds]


def reinforcement_rule(a, b, answers):
    rewards = []
    for answer in answers:
        line = answer.split("\n")[0]
        numbers = re.findall(r"-?\d+\.?\d*", line)
        right = len(numbers) == 1 and float(numbers[0]) == a + b
        rewards.append(1.0 if right else 0.0)
    return rewards
