r"""Reference answers of notebook 00_training_cycle, as a student would write them."""

import math

import torch


def training_cycle_bigram_entropy(counts):
    total = counts.sum().item()
    entropy = 0.0
    for row in counts.tolist():
        for n in row:
            if n > 0:  # 0 · ln 0 counts as 0
                entropy -= n / total * math.log(n / sum(row))
    return entropy


def training_cycle_mask_prompt(prompt_ids, answer_ids, end_id):
    input_ids = prompt_ids + answer_ids + [end_id]
    labels = [-100] * len(prompt_ids) + answer_ids + [end_id]
    return input_ids, labels


def training_cycle_dpo(chosen, rejected, reference_chosen, reference_rejected, beta):
    better = beta * (chosen - reference_chosen)
    worse = beta * (rejected - reference_rejected)
    return -torch.nn.functional.logsigmoid(better - worse).mean()


def training_cycle_pack(rows, length, end_id):
    stream = []
    for row in rows:
        stream += row + [end_id]
    blocks = []
    while len(stream) >= length:
        blocks.append(stream[:length])
        stream = stream[length:]
    return blocks


def training_cycle_audit(train, test, mark, end_id):
    def prompt(row):
        ids = row["input_ids"]
        for i in range(len(ids)):
            if ids[i : i + len(mark)] == mark:
                return ids[: i + len(mark)]

    asked = [prompt(row) for row in test]
    faults = []
    for number, row in enumerate(train):
        ids, labels, start = row["input_ids"], row["labels"], len(prompt(row))
        fault = "fit"
        if prompt(row) in asked:
            fault = "leaked"
        elif any(ids == other["input_ids"] for other in train[:number]):
            fault = "repeated"
        elif ids[-1] != end_id:
            fault = "cut"
        elif set(labels) == {-100}:
            fault = "nothing learned"
        elif any(label != -100 and label != token for token, label in zip(ids, labels, strict=True)):
            fault = "shifted"
        elif set(labels[:start]) != {-100}:
            fault = "prompt learned"
        elif labels[-1] == -100:
            fault = "end not learned"
        faults.append(fault)
    return faults
