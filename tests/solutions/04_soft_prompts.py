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


def soft_prompts_gated_attention(q, k, v, p_k, p_v, gate):
    def attention(k, v):
        return torch.softmax(q @ k.T / q.shape[1] ** 0.5, dim=-1) @ v

    return attention(k, v) + gate * attention(p_k, p_v)


def soft_prompts_gate_gradients(g, q, p_k, p_v, gate):
    # Let autograd do it, and believe it.
    gate = torch.tensor(gate, requires_grad=True)
    p_v = p_v.clone().requires_grad_()
    answer = gate * (torch.softmax(q @ p_k.T / q.shape[1] ** 0.5, dim=-1) @ p_v)
    return torch.autograd.grad(answer, (gate, p_v), g)


def soft_prompts_count(layers, d, kv_heads, head_dim, n):
    prompt = n * d
    prefix = layers * 2 * n * (kv_heads * head_dim)
    return prompt, prefix
