"""A small D-FINE that trains from scratch on a CPU: HGNetV2-B0, 128 channels, three decoder layers."""

from .dfine_s import model

model.neck.merge_with(
    dict(
        hidden_dim=128,
        encoder=dict(layer=dict(attn=dict(num_heads=4), ffn=dict(feedforward_dim=512))),
        fusion=dict(num_blocks=1),
    )
)
model.embed_dim = 128
model.transformer.decoder.layer.attn[0].num_heads = 4
model.transformer.decoder.layer.attn[1].attention.num_heads = 4
model.transformer.decoder.layer.ffn.feedforward_dim = 512
model.transformer.decoder.position_head.hidden_dim = 256
model.num_queries = 25
model.denoising.num_pairs = 20
model.postprocessor.num_detections = 50
