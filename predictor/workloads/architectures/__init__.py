"""Networks as lists of ops: one file for each kind of architecture, and the parts that they share.

Decoder               dense decoders
LayeredDecoder        decoders whose layers differ, or hold experts
Layer                 one of their layers
Encoder               BERT and its kin
VisionEncoder         vision transformers
Seq2Seq               T5 and its kin
ConvNet               convolutional networks
GroupedAttention      attention with grouped key/value heads
LatentAttention       multi-head latent attention
LinearAttention       recurrences of a fixed state
BlockSparseAttention  attention to chosen blocks of keys
CompressedAttention   attention to compressed keys
DenseFeedForward      the feed-forward of every token
Experts               experts of which each token visits some
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.workloads.architectures.convnet import ConvNet as ConvNet
    from predictor.workloads.architectures.decoder import Decoder as Decoder
    from predictor.workloads.architectures.encoder import Encoder as Encoder, VisionEncoder as VisionEncoder
    from predictor.workloads.architectures.feed_forward import DenseFeedForward as DenseFeedForward, Experts as Experts
    from predictor.workloads.architectures.layered import Layer as Layer, LayeredDecoder as LayeredDecoder
    from predictor.workloads.architectures.mixers import (
        GroupedAttention as GroupedAttention,
        LatentAttention as LatentAttention,
        LinearAttention as LinearAttention,
    )
    from predictor.workloads.architectures.seq2seq import Seq2Seq as Seq2Seq
    from predictor.workloads.architectures.sparse_mixers import (
        BlockSparseAttention as BlockSparseAttention,
        CompressedAttention as CompressedAttention,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "decoder": ["Decoder"],
        "layered": ["LayeredDecoder", "Layer"],
        "encoder": ["Encoder", "VisionEncoder"],
        "seq2seq": ["Seq2Seq"],
        "convnet": ["ConvNet"],
        "mixers": ["GroupedAttention", "LatentAttention", "LinearAttention"],
        "sparse_mixers": ["BlockSparseAttention", "CompressedAttention"],
        "feed_forward": ["DenseFeedForward", "Experts"],
    },
)
