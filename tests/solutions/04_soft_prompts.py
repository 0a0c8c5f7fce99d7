r"""Reference answers of notebook 04_soft_prompts, as a student would write them."""

import torch


def soft_prompts_prepend(prompt, x, mask, labels):
    batch, n = x.shape[0], prompt.shape[0]
    x = torch.cat([prompt.unsqueeze(0).repeat(batch, 1, 1), x], dim=1)
    mask = torch.cat([torch.ones(batch, n, dtype=mask.dtype), mask], dim=1)
    labels = torch.cat([torch.full((batch, n), -100), labels], dim=1)
    return x, mask, labels


def soft_prompts_prefix_attention(q, k, v, p_k, p_v):
    n, seq, d = len(p_k), len(q), q.shape[1]
    scores = q @ torch.cat([p_k, k]).T / d**0.5
    for i in range(seq):
        scores[i, n + i + 1 :] = -torch.inf
    return torch.softmax(scores, dim=-1) @ torch.cat([p_v, v])


def soft_prompts_train(load, start, batches, optimizer):
    model = load()
    model.requires_grad_(False)
    P = torch.nn.Parameter(start.clone())
    optim = optimizer([P])
    for ids, mask, labels in batches:
        x = model.get_input_embeddings()(ids)
        batch, n = len(x), len(P)
        x = torch.cat([P.expand(batch, -1, -1), x], dim=1)
        mask = torch.cat([mask.new_ones(batch, n), mask], dim=1)
        labels = torch.cat([labels.new_full((batch, n), -100), labels], dim=1)
        optim.zero_grad()
        model(inputs_embeds=x, attention_mask=mask, labels=labels).loss.backward()
        optim.step()
    return P.detach()


def soft_prompts_design(load, ids, mask, labels):
    model = load()
    torch.manual_seed(0)
    # " The capital city of" in SmolLM2's vocabulary
    P = torch.nn.Parameter(model.get_input_embeddings().weight[[378, 3575, 2240, 282]].clone())
    optim = torch.optim.Adam([P], lr=0.03)
    for step in range(27):
        rows = torch.arange(8 * step, 8 * step + 8) % len(ids)
        longest = int(mask[rows].sum(1).max())
        x = model.get_input_embeddings()(ids[rows, :longest])
        x = torch.cat([P.expand(8, -1, -1), x], dim=1)
        seen = torch.cat([mask.new_ones(8, 4), mask[rows, :longest]], dim=1)
        wanted = torch.cat([labels.new_full((8, 4), -100), labels[rows, :longest]], dim=1)
        optim.zero_grad()
        model(inputs_embeds=x, attention_mask=seen, labels=wanted).loss.backward()
        optim.step()
    return {"prompt": P.detach()}
