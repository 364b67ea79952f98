"""Mask DINO with a ResNet-50 and feed-forward layers of 1024 hidden channels in the encoder."""

from .maskdino_r50 import model

model.transformer.encoder.layer.ffn.feedforward_dim = 1024
model.transformer.decoder.layer.ffn.feedforward_dim = 2048
