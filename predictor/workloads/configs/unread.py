"""Which keys of a config nobody read, and which of them may change sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from predictor.errors import InvalidSpec

DEEPEST = 20  # published configs nest four deep
# Keys whose numbers change neither sizes nor counts: places of tokens, training, sampling, scales and positions.
HARMLESS = re.compile(
    r"token|_ids?$|dropout|drop|_eps$|epsilon|initializer|init_|_init|std$|coef|theta|temperature|scal|"
    r"multiplier|softcap|soft_cap|chunk_size|pretraining|loss|jitter|beam|penalt|^top_[kp]$|num_return|length|rope|"
    r"yarn|mscale|beta|alpha|momentum|_lr$|seed|version|norm_min|time_step_(min|max|floor|limit)|clip|query_pre|"
    r"topk_group|^n_group$|limit|num_labels|image|video|vision|audio|mm_|aspect|tile|fps|"
    r"precision|bits|num_logits|pretraining_tp|max_position|max_window|sliding_window|block_size|layer_norm|mask|"
    r"hash|residual|feature|position|offset|topk_freq|expert_capacity|router|swiglu|max_seq|seq_len|n_ctx|bos|eos|pad"
)
# Keys that some architectures derive from others, or have beside those that count.
DERIVED = frozenset(
    [
        "attention_head_dim",
        "expand",
        "full_attention_interval",
        "hc_sinkhorn_iters",
        "intermediate_size",
        "num_experts",
        "num_kv_heads",
        "num_key_value_heads",
        "partial_rotary_factor",
        "qk_head_dim",
        "time_step_rank",
        "vocab_size_per_layer_input",
    ]
)
# Keys whose objects say how, not how large.
HARMLESS_PARTS = re.compile(
    r"rope|quant|compression|label2id|id2label|auto_map|task_specific|generation|text_config|vision|audio|"
    r"special|processor|torch_dtype|attn_implementation|config_groups|per_layer|dtype"
)
SAID = {
    "num_nextn_predict_layers": "multi-token-prediction layers are not counted; engines load them to draft tokens.",
    "mtp_num_hidden_layers": "multi-token-prediction layers are not counted; engines load them to draft tokens.",
    "num_mtp_modules": "multi-token-prediction layers are not counted; engines load them to draft tokens.",
    "num_mtp_layers": "multi-token-prediction layers are not counted; engines load them to draft tokens.",
    "cla_share_factor": "layers that share their cache (use_cla) are counted with one each; the cache is smaller.",
}
DRAFT = re.compile(r"eagle|medusa|mtp", re.IGNORECASE)
Seen = set[str]


class Watched(dict[str, Any]):
    """A config that remembers which of its keys were asked for; objects in it remember theirs."""

    def __init__(self, config: Mapping[str, Any], depth: int = 0) -> None:
        if depth > DEEPEST:
            raise InvalidSpec(f"config.json nests more than {DEEPEST} objects; give a valid config.json.")
        super().__init__({k: Watched(v, depth + 1) if isinstance(v, Mapping) else v for k, v in config.items()})
        self.seen: Seen = set()

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, which counts as read."""
        self.seen.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.seen.add(str(key))
        return super().__contains__(key)


def unread_notes(config: Watched) -> tuple[str, ...]:
    """Notes on keys that may change sizes and that nobody read, of the whole and of its language model."""
    text = dict.get(config, "text_config")
    parts = [config] if not isinstance(text, Watched) else [text]
    notes = [
        SAID[key] for part in {id(one): one for one in (config, *parts)}.values() for key in SAID if _large(part, key)
    ]
    written = dict.get(config, "architectures")
    if any(DRAFT.search(str(name)) for name in (written if isinstance(written, list) else ())):
        notes.append("this is a draft head (EAGLE, Medusa, MTP): it is counted as a decoder with tables of its own.")
    named = [key for part in parts for key in _unread(part) if key not in SAID]
    if named:
        shown = ", ".join(key[:40] for key in named[:6]) + (f" and {len(named) - 6} more" if len(named) > 6 else "")
        them, they = ("it", "it changes") if len(named) == 1 else ("them", "they change")
        notes.append(f"config.json has {shown}, which nothing here reads: check that {they} no sizes, or count {them}.")
    return tuple(dict.fromkeys(notes))


def _large(part: Watched, key: str) -> bool:
    value = dict.get(part, key)
    return isinstance(value, int) and not isinstance(value, bool) and value > (1 if key == "cla_share_factor" else 0)


def _unread(part: Watched) -> Iterator[str]:
    for key in sorted(dict.keys(part) - part.seen):
        value, name = dict.get(part, key), key.casefold()
        number = isinstance(value, int | float) and not isinstance(value, bool) and value not in (0, 1, -1)
        known = name in DERIVED or HARMLESS.search(name) or (name == "head_dim" and _usual_head(part))
        if (number and not known) or (isinstance(value, Mapping) and value and not HARMLESS_PARTS.search(name)):
            yield key


def _usual_head(part: Watched) -> bool:
    """Whether head_dim says what the widths do, or latent attention has widths of its own."""
    hidden, heads, dim = (dict.get(part, key) for key in ("hidden_size", "num_attention_heads", "head_dim"))
    if dict.get(part, "kv_lora_rank"):
        return True
    if not (isinstance(hidden, int) and isinstance(heads, int) and isinstance(dim, int)):
        return False
    return dim * heads == hidden
