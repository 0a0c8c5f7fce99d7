r"""What is kept before the first block and after the last one: embeddings, output layer and loss, classifiers."""

from __future__ import annotations

from typing import NamedTuple

from coursekit.architecture import Architecture
from coursekit.memory.activations.step import Setting
from coursekit.memory.activations.training import Training
from coursekit.memory.breakdown import Term, summed
from coursekit.memory.inserted.parts import Inserted


class Head(NamedTuple):
    r"""The task head, final norm included: what it keeps, and bytes that are there for a moment or longer."""

    terms: list[Term]
    beyond_norm: int = 0  # of what it keeps, bytes that are gone when the backward of the final norm runs
    loss: int = 0  # on top, in the backward of the loss
    logits: int = 0  # on top, at the end of the forward
    waits: int = 0  # on top, through the whole backward: the first gradient of a tied table


def embedding(arch: Architecture, s: Setting, inserted: Inserted, checkpointing: bool) -> tuple[list[Term], bool]:
    r"""Kept before the first block, and whether the blocks' input needs a gradient."""
    training, tables = inserted.training, arch.tables
    # ELECTRA projects what is normalised and dropped out up to the width of the model.
    td = s.tokens * (arch.d_embed if arch.family == "electra" else arch.d_model)
    virtual = bool(inserted.prompt or inserted.vectors)
    # Under checkpointing transformers makes the embedding's output require a gradient, trained or not.
    flows = checkpointing or virtual or any(training.weight(m) or m in training.low_rank for m in tables)
    terms = list(inserted.before)
    if training.moved:  # they, and then their gradients, stay until the very end
        terms.append(Term("moved weights outside", "weights", s.element * training.moved.outside))
    if checkpointing and not any(training.weight(m) for m in tables) and (arch.norm == "layer" or virtual):
        # That makes it a leaf of the graph, which stays until the end. Llama's is the first block's input as well,
        # unless virtual tokens come between.
        text = s.batch * (s.seq - s.prompt) * arch.d_embed
        terms.append(Term("output of the embedding", "T d", text * s.element))
    if inserted.vectors:
        terms.append(Term("places of the virtual tokens", "T", s.tokens))
    for m in tables:
        if m in training.low_rank:
            terms.append(Term(f"{m}: A x", "T r", 4 * s.tokens * training.r))
    if arch.norm == "layer" and not arch.pre_norm and arch.outer_norms:
        norm = training.any_of(arch.outer_norms[0])
        if flows or norm:
            size = s.full if norm and training.norm_copies else s.element
            terms += [Term("sum of the embeddings", "T d", td * size), Term("mean, 1 / std", "2 T", 8 * s.tokens)]
        flows |= norm
    if arch.dropout and flows and arch.family != "opt":
        terms.append(Term("dropout mask", "T d", td * s.noise))
    if any(m.name == "embeddings_project" and training.weight(m.name) for m in arch.matrices):
        terms.append(Term("input of the projection", "T e", td * s.element))
        flows = True
    return terms, flows


def shared(arch: Architecture, s: Setting) -> list[Term]:
    r"""What all attentions share: Llama's rotations, and a mask that makes room for a prefix."""
    terms = []
    if arch.family in ("llama", "qwen3"):
        # Behind a prompt every row has positions of its own.
        rows, formula = (s.batch, "2 T head") if s.prompt else (1, "2 seq head")
        terms.append(Term("cos, sin of the positions", formula, 2 * rows * s.seq * arch.head_dim * s.element))
    if s.prefix:  # made once for all blocks; a causal one is there without padding, too
        rows = s.batch if mask(arch, s).bytes else 0 if arch.encoder else 1
        nbytes = rows * s.seq * (s.seq + s.prefix) * s.element
        terms.append(Term("mask with the prefix", "T (n + seq)", nbytes))
    return terms


def mask(arch: Architecture, s: Setting) -> Term:
    r"""The mask of the base: none, yes or no for each pair of tokens, or a number to add."""
    eager = s.attention == "eager"
    needed = s.padded or (eager and arch.pre_norm)
    return Term("mask", "T seq", s.tokens * s.seq * (s.element if eager else 1) * needed)


def head(arch: Architecture, s: Setting, training: Training, task: str) -> Head:
    r"""A classifier, or the output layer over the vocabulary with its loss."""
    norm = _final_norm(arch, s, training)
    if task == "classification":
        return Head([*norm, *_classifier(arch, s, training)])
    terms: list[Term] = []
    table = next(m.name for m in arch.matrices if m.kind == "embedding")
    # An untied output layer is trained when everything is.
    trained = training.weight(table) if arch.tied else training.weight("lm_head")
    if trained:
        terms.append(Term("input of the output layer", "T d", s.tokens * arch.d_embed * s.element))
        if training.moved:
            terms.append(Term("moved output layer", "V d", arch.vocab * arch.d_embed * s.element))
    # The loss is computed in fp32 whatever the model is in. It keeps log softmax; its backward makes two more.
    # Of virtual tokens the last one alone is asked for a prediction, that of the first token.
    tv = s.batch * (s.seq - max(0, s.prompt - 1)) * arch.vocab
    terms.append(Term("log softmax", "T V", 4 * tv))
    forward = tv * (s.element + (4 if s.element < 4 else 0))  # the logits, and their copy in fp32
    waits = arch.vocab * arch.d_embed * s.element if arch.tied and trained else 0
    return Head([*norm, *terms], summed(terms), 2 * 4 * tv, forward, waits)


def _final_norm(arch: Architecture, s: Setting, training: Training) -> list[Term]:
    td, rms = s.tokens * arch.d_model, arch.norm == "rms"
    terms: list[Term] = []
    for norm in arch.outer_norms if arch.pre_norm else ():
        wide = rms or training.copies_norm(norm)
        terms.append(Term("residual stream", "T d", td * (s.full if wide else s.element)))
        terms.append(Term("1 / rms", "T", 4 * s.tokens) if rms else Term("mean, 1 / std", "2 T", 8 * s.tokens))
        if rms and training.weight(norm):
            terms.append(Term("normalised", "T d", td * s.element))
    return terms


def _classifier(arch: Architecture, s: Setting, training: Training) -> list[Term]:
    b, d = s.batch, arch.d_model * s.element
    if arch.family == "bert":
        terms = [Term("pooled", "batch d", b * d)]
        if training.weight("pooler.dense"):
            terms.insert(0, Term("last hidden states", "T d", s.tokens * d))
        if arch.dropout:
            terms += [Term("dropout mask, dropped", "2 batch d", b * arch.d_model * (s.noise + s.element))]
        return terms
    if arch.family in ("roberta", "electra"):
        # Without dropout the first token's state is a view, and keeps the whole tensor alive.
        first = Term("first token", "batch d", b * d) if arch.dropout else Term("hidden states", "T d", s.tokens * d)
        return [first, Term("classifier", "4 batch d", 4 * b * d)]
    # Behind a prompt it is a copy of the text's part.
    text = s.batch * (s.seq - s.prompt) * arch.d_embed
    return [Term("input of the classifier", "T d", text * s.element)]
