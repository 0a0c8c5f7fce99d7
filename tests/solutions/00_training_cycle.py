"""Reference answers of notebook 00_training_cycle, as a student would write them."""

import torch


def training_cycle_logps(logits, labels):
    logps = logits[:, :-1].log_softmax(-1)
    targets = labels[:, 1:]
    counts = targets != -100
    found = logps.gather(-1, (targets * counts)[..., None])[..., 0]
    return found * counts


def training_cycle_mask_prompt(prompt_ids, answer_ids, end_id):
    input_ids = prompt_ids + answer_ids + [end_id]
    labels = [-100] * len(prompt_ids) + answer_ids + [end_id]
    return input_ids, labels


def training_cycle_dpo(chosen, rejected, reference_chosen, reference_rejected, beta):
    better = beta * (chosen - reference_chosen)
    worse = beta * (rejected - reference_rejected)
    return -torch.nn.functional.logsigmoid(better - worse).mean()


def training_cycle_align(E, W0, x, chosen, rejected):
    def logps(W, answers):
        return (x @ W.T @ E.T).log_softmax(-1).gather(1, answers[:, None])[:, 0]

    W = W0.clone().requires_grad_()
    before = logps(W0, chosen) - logps(W0, rejected)
    optimizer = torch.optim.Adam([W], lr=0.05)
    for _ in range(200):
        won, lost = logps(W, chosen), logps(W, rejected)
        margin = 0.5 * (won - lost - before)
        loss = -torch.nn.functional.logsigmoid(margin).mean() - 0.3 * won.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"W": W.detach()}
