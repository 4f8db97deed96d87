"""Heads: the part of a model, after its encoder or decoder layers, that a kind of task computes with."""

from __future__ import annotations

from enum import StrEnum


class Head(StrEnum):
    POOLING = "pooling"  # one vector for each window
    CLASSIFICATION = "sequence classification"  # a score for each label of each window
    TAGGING = "token classification"  # a score for each label of each token
    MATCHING = "label matching"  # a score for each part of a window and each label that is given by name
    ANSWERING = "question answering"  # a start and an end score for each token
    VOCABULARY = "masked language model"  # a weight for each token of the vocabulary, for each window
    SEQ2SEQ_TEXT = "encoder-decoder text"
    CAUSAL_TEXT = "decoder-only text"
    LIKELIHOOD = "likelihood of labels"  # the probability of each label after a prompt


# Heads with weights of their own, which a model's files must have. ``families.classifier`` gives the same names.
TRAINED = frozenset({Head.CLASSIFICATION, Head.TAGGING, Head.ANSWERING})
