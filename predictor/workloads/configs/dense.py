"""Reads a Hugging Face config.json of a dense decoder. What the file leaves out takes the default of the model type's
own configuration class (transformers 5.23, src/transformers/models/*/configuration_*.py) and nothing else.

What changes neither shapes nor counts (rotary base, soft-caps, multipliers) is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from predictor.errors import InvalidSpec
from predictor.values import nearest_names
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.configs.classic import CLASSIC, classic_from_config
from predictor.workloads.configs.fields import Fields, language_model, read, short, show
from predictor.workloads.configs.layered import LAYERED, layered_from_config
from predictor.workloads.configs.quantization import published_dtypes
from predictor.workloads.configs.tower_passes import vision_tower
from predictor.workloads.configs.towers import beside_parameters
from predictor.workloads.configs.unread import Watched, unread_notes


class Family(NamedTuple):
    """How one model_type departs from Llama.

    defaults: keys that its configuration class fills in; None stands for hidden / heads in head_dim, for all heads in
    num_key_value_heads. window: which layers slide unless layer_types says it: "" none, "all", "from" layer
    max_window_layers on where use_sliding_window, "even" layers, all but every n-th of a "pattern".
    biases: for query-key-value, output and feed-forward, the key that switches the bias on; "" never, "always".
    """

    defaults: Mapping[str, Any]
    window: str = ""
    biases: tuple[str, str, str] = ("", "", "")
    qk_norm: str = ""
    norm: str = "rms_norm"
    norm_order: str = "pre"
    gated: bool = True


GQA: Mapping[str, Any] = {"head_dim": None, "hidden_act": "silu", "tie_word_embeddings": False}
MHA: Mapping[str, Any] = {**GQA, "num_key_value_heads": None}
NO_BIAS: Mapping[str, Any] = {"attention_bias": False, "mlp_bias": False}
ATTENTION = ("attention_bias", "attention_bias", "")
ALL = ("attention_bias", "attention_bias", "mlp_bias")
GEMMA: Mapping[str, Any] = {
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "attention_bias": False,
}
GEMMA_2: Mapping[str, Any] = {**GEMMA, "final_logit_softcapping": 30.0}
# The published text_config of Gemma 3 models leans on these.
GEMMA_3: Mapping[str, Any] = {
    **GEMMA,
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
    "sliding_window_pattern": 6,
}
QWEN_3: Mapping[str, Any] = {**GQA, "head_dim": 128, "use_sliding_window": False, "attention_bias": False}
STARCODER_2: Mapping[str, Any] = {
    "head_dim": None,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "use_bias": True,
    "sliding_window": None,
}
NEMOTRON: Mapping[str, Any] = {**GQA, **NO_BIAS, "hidden_act": "relu2", "partial_rotary_factor": 0.5}
SEED: Mapping[str, Any] = {**MHA, "head_dim": 128, "attention_bias": True, "attention_out_bias": False}
ERNIE: Mapping[str, Any] = {**GQA, "head_dim": 128, "tie_word_embeddings": True, "use_bias": False}
EXAONE: Mapping[str, Any] = {**MHA, "sliding_window": None, "sliding_window_pattern": 4}
GLM: Mapping[str, Any] = {**GQA, "head_dim": None, "attention_bias": False, "partial_rotary_factor": 0.5}
JAIS: Mapping[str, Any] = {**MHA, "hidden_act": "relu2", "attention_bias": True, "mlp_bias": True}
OLMO_3: Mapping[str, Any] = {**MHA, **NO_BIAS, "sliding_window": 4096, "sliding_window_pattern": 4}

FAMILIES: Mapping[str, Family] = {
    "llama": Family({**MHA, **NO_BIAS}, biases=ALL),
    "mistral": Family({**GQA, "sliding_window": 4096}, "all"),
    "ministral": Family({**GQA, "sliding_window": 4096}, "all"),
    "qwen2": Family({**GQA, "use_sliding_window": False}, "from", ("always", "", "")),
    "qwen3": Family(QWEN_3, "from", biases=ATTENTION, qk_norm="head"),
    "qwen3_vl_text": Family({**QWEN_3, "tie_word_embeddings": False}, biases=ATTENTION, qk_norm="head"),
    # configuration_mimo.py beside the published weights: Qwen 2 with a switch for the biases.
    "mimo": Family({**GQA, "use_sliding_window": False}, "from", ("attention_bias", "", "")),
    "phi3": Family({**MHA, "sliding_window": None}, "all"),
    "gemma": Family(GEMMA, biases=ATTENTION),
    "gemma2": Family(GEMMA_2, "even", biases=ATTENTION, norm_order="sandwich"),
    "gemma3_text": Family(GEMMA_3, "pattern", biases=ATTENTION, qk_norm="head", norm_order="sandwich"),
    "olmo2": Family({**MHA, **NO_BIAS}, biases=ATTENTION, qk_norm="full", norm_order="post"),
    "granite": Family({**MHA, **NO_BIAS}, biases=ALL),
    "starcoder2": Family(
        STARCODER_2, "all", biases=("use_bias", "use_bias", "use_bias"), norm="layer_norm", gated=False
    ),
    "nemotron": Family(NEMOTRON, biases=ALL, norm="layer_norm", gated=False),
    "internlm2": Family(MHA, biases=("bias", "bias", "")),  # configuration_internlm2.py beside the published weights
    "arcee": Family({**MHA, **NO_BIAS, "hidden_act": "relu2"}, biases=ALL, gated=False),
    "cwm": Family({**GQA, "sliding_window": 8192, "sliding_window_pattern": 4}, "pattern"),
    "ernie4_5": Family(ERNIE, biases=("use_bias", "use_bias", "use_bias")),
    "exaone4": Family(EXAONE, "pattern", qk_norm="head", norm_order="post"),
    "glm": Family(GLM, biases=("attention_bias", "", "")),
    "glm4": Family(GLM, biases=("attention_bias", "", ""), norm_order="sandwich"),
    "glm4v_text": Family(GLM, biases=("attention_bias", "", ""), norm_order="sandwich"),
    "helium": Family({**MHA, **NO_BIAS, "head_dim": 128}, biases=("attention_bias", "", "mlp_bias")),
    "hunyuan_v1_dense": Family({**MHA, "attention_bias": False}, biases=ATTENTION, qk_norm="head"),
    "hyperclovax": Family({**MHA, **NO_BIAS}, biases=ALL, norm_order="sandwich"),
    "internlm3": Family({**MHA, **NO_BIAS}, biases=ALL),
    "iquestcoder": Family({**MHA, **NO_BIAS}, biases=ALL),
    "jais2": Family(JAIS, biases=ALL, norm="layer_norm", gated=False),
    "ministral3": Family({**GQA, "sliding_window": None}, "all"),
    "olmo": Family({**MHA, **NO_BIAS}, biases=ATTENTION),
    "olmo3": Family(OLMO_3, "pattern", biases=ATTENTION, qk_norm="full", norm_order="post"),
    "apertus": Family({**MHA, "attention_bias": False}, biases=ATTENTION, qk_norm="head", gated=False),
    "granite_swa": Family({**MHA, **NO_BIAS, "tie_word_embeddings": True}, "all", biases=ALL),
    "smollm3": Family({**MHA, **NO_BIAS, "tie_word_embeddings": True}, biases=ALL),
    "vaultgemma": Family(GEMMA_2, "even", biases=ATTENTION),
    **dict.fromkeys(
        ("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_vl", "qwen2_5_vl"),
        Family({**GQA, "use_sliding_window": False}, "from", ("always", "", "")),
    ),
    "seed_oss": Family({**SEED, "mlp_bias": False}, "", ("attention_bias", "attention_out_bias", "mlp_bias")),
}
ALL_TYPES = (*FAMILIES, *CLASSIC, *LAYERED)


def _supported(model_type: str) -> str:
    """The nearest model types, or a few and how many more there are."""
    few = nearest_names(model_type.casefold(), ALL_TYPES, most=3) or list(ALL_TYPES)[:12]
    return f"supported: {', '.join(few)} and {len(ALL_TYPES) - len(few)} more"


# Keys that say "not a plain dense decoder", whatever model_type claims.
FOREIGN_KEYS: Mapping[str, str] = {
    "num_local_experts": "mixture of experts",
    "num_experts": "mixture of experts",
    "n_routed_experts": "mixture of experts",
    "moe_intermediate_size": "mixture of experts",
    "kv_lora_rank": "multi-head latent attention",
    "mamba_d_state": "hybrid with state-space layers",
    "block_configs": "different widths per layer",
    "cross_attention_layers": "cross-attention",
}


def decoder_from_config(source: Mapping[str, Any] | str | Path, name: str = "") -> Decoder | LayeredDecoder:
    """The decoder that a config.json describes; raises InvalidSpec naming the field that is missing or not understood.

    source: the parsed file, its path, or a directory that has one. name: for reports; else that of the directory.
    Of a multimodal config the language model (`text_config`) is read.
    """
    origin = "a config mapping"
    if isinstance(source, str | Path):
        path = Path(source)
        source, path = read(path)
        name, origin = name or path.absolute().parent.name, f"{path.name} in {short(path.parent)}"
    if not isinstance(source, Mapping):
        raise InvalidSpec(f"config is a {type(source).__name__}; it must be a JSON object, a mapping or a path.")
    if not isinstance(name, str):
        raise InvalidSpec(f"name is {show(name)}; it must be text. Quote it.")
    printable = "".join(letter for letter in name[:100] if letter.isprintable())
    source = Watched(source)
    model_type = language_model(source).get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise InvalidSpec("config.json has no model_type; add the one of the model's family, such as llama.")
    return _with_the_rest(_language_model(source, model_type, printable or "custom model", origin), source)


def _language_model(config: Watched, model_type: str, name: str, origin: str) -> Decoder | LayeredDecoder:
    if model_type in CLASSIC:
        return classic_from_config(config, model_type, name, origin)
    if model_type in LAYERED:
        return layered_from_config(config, name, origin)
    return _Reader(config).decoder(name, origin)


def _with_the_rest(model: Decoder | LayeredDecoder, config: Watched) -> Decoder | LayeredDecoder:
    """The model with what the config has beside its decoder, and notes on what of it is not counted."""
    beside, notes = beside_parameters(config, model.hidden)
    tower = vision_tower(config, model.hidden)
    if beside:
        timed = "their time is predicted with images." if tower else "their time is not predicted."
        notes = tuple(f"{note.removesuffix('.')}; {timed}" for note in notes)
    kept = published_dtypes(Fields(config, {}), model.layers).notes
    told = (*model.notes, *notes, *kept, *unread_notes(config))
    return replace(model, beside=model.beside + beside, tower=tower, notes=tuple(dict.fromkeys(told)))


class _Reader(Fields):
    """A config as a dense decoder."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, {})
        self.family = self._family()
        self.defaults = self.family.defaults

    def _family(self) -> Family:
        for key, meaning in FOREIGN_KEYS.items():
            value = self.config.get(key)
            absent = value is None or (isinstance(value, int) and value in (0, 1))  # one expert is none
            if not absent:
                raise InvalidSpec(
                    f"not yet supported: architecture {show(self.model_type)} with {key} ({meaning}); "
                    f"{_supported(self.model_type)}."
                )
        if self.model_type not in FAMILIES:
            raise InvalidSpec(
                f"not yet supported: architecture {show(self.model_type)}; {_supported(self.model_type)}."
            )
        return FAMILIES[self.model_type]

    def decoder(self, name: str, origin: str) -> Decoder:
        family = self.family
        hidden, heads = self.size("hidden_size"), self.size("num_attention_heads")
        layers, max_len = self.size("num_hidden_layers"), self.longest()
        head_dim = self.size("head_dim", none_is=self._even_share(hidden, heads))
        window, window_layers = self.window(layers, max_len)
        return Decoder(
            name=name,
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=self.size("num_key_value_heads", none_is=heads),
            head_dim=head_dim,
            inter=self.size("intermediate_size"),
            vocab=self.size("vocab_size"),
            max_len=max_len,
            tied_embeddings=self.flag("tie_word_embeddings"),
            gated=family.gated,
            qkv_bias=self.bias(family.biases[0]),
            o_bias=self.bias(family.biases[1]),
            mlp_bias=self.bias(family.biases[2]),
            qk_norm=family.qk_norm,
            norm=family.norm,
            norm_order="pre" if self.config.get("use_post_norm") is False else family.norm_order,
            window=window,
            window_layers=window_layers,
            rotary_dim=self.rotary_dim(head_dim),
            activation=self.activation(),
            dtype=self.dtype(),
            linear_dtype=published_dtypes(self, layers)[0],
            capped_logits=bool({**self.defaults, **self.config}.get("final_logit_softcapping")),
            source=origin,
        )

    def bias(self, key: str) -> bool:
        """Whether the projection has a bias: key as in Family."""
        return key == "always" or (key != "" and self.flag(key))

    def _even_share(self, hidden: int, heads: int) -> int | None:
        return hidden // heads if hidden % heads == 0 else None

    def window(self, layers: int, max_len: int) -> tuple[int, int]:
        """(window, layers that have it); a window as long as the context is none."""
        rule = self.family.window
        if not rule or (rule == "from" and not self.flag("use_sliding_window")):
            return 0, 0
        if self.get("sliding_window") is None:
            return 0, 0
        window, count = self.size("sliding_window"), self._window_layers(rule, layers)
        return (window, count) if count and window < max_len else (0, 0)

    def _window_layers(self, rule: str, layers: int) -> int:
        types = self.config.get("layer_types")
        if types is not None:
            known = ("sliding_attention", "full_attention")
            if not isinstance(types, list) or len(types) != layers or not all(kind in known for kind in types):
                raise InvalidSpec(
                    f"layer_types in config.json is {show(types)}; it must list sliding_attention or full_attention "
                    f"for each of the {layers} layers."
                )
            return types.count("sliding_attention")
        if rule == "from":
            return max(0, layers - self.size("max_window_layers"))
        if rule == "even":
            return -(-layers // 2)
        if rule == "pattern":
            return layers - layers // self.size("sliding_window_pattern")
        return layers
