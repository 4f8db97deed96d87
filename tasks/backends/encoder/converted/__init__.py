"""Encoders that another library computes in transformers' place, and proves at each opening that it may."""
