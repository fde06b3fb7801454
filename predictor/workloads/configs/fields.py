"""Typed access to the fields of a Hugging Face config.json; every failure names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from predictor.errors import InvalidSpec, UnknownModel
from predictor.files import repeated_key
from predictor.workloads.configs.class_defaults import class_defaults

LARGEST_FILE_BYTES = 10 * 2**20  # published config files are below 100 kB
ACTIVATION_OF: Mapping[str, str] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "xielu": "silu",
}
STRETCHED = frozenset({"yarn", "linear", "dynamic", "ntk"})  # scalings whose configs state the length trained on
MOST_STRETCHED = 1024
DTYPE_OF: Mapping[str, str] = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


class Fields:
    """A config, its language model's part, and the defaults of its configuration class."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.outer, self.defaults = config, defaults
        self.config = language_model(config)
        self.model_type = str(self.config.get("model_type", ""))
        self.of_class = class_defaults(self.model_type) if self.config is not config else {}

    def get(self, key: str) -> Any:
        """The value in the file, else the family's default; raises if there is none.

        A multimodal config ties the embeddings of its language model from outside or inside, whichever says so, and
        names of that what differs from its class alone (PretrainedConfig.to_diff_dict).
        """
        if key == "tie_word_embeddings" and self.outer.get(key) is True:
            return True
        outside = self.outer if key == "tie_word_embeddings" else {}
        for place in (self.config, outside, self.defaults, self.of_class):
            if key in place:
                return place[key]
        raise InvalidSpec(
            f"config.json of model_type {self.model_type} has no {key}; add it from the model's published config.json."
        )

    def size(self, key: str, none_is: int | None = None) -> int:
        """A whole number of at least 1; none_is where the file says null."""
        value = self.get(key)
        if value is None and none_is is not None:
            return none_is
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**31:
            raise InvalidSpec(f"{key} in config.json is {show(value)}; it must be a whole number from 1 to 2**31.")
        return value

    def longest(self) -> int:
        """Tokens of a sequence at most: max_position_embeddings, or what rope scaling makes of the length trained on.

        As vLLM derives it (vllm/config/model.py): scalings whose configs already state the longer context are left.
        """
        stated = self.size("max_position_embeddings")
        scaling = self.config.get("rope_scaling") or self.config.get("rope_parameters")
        if not isinstance(scaling, Mapping):
            return stated
        kind, factor = scaling.get("rope_type", scaling.get("type")), scaling.get("factor")
        if (
            not isinstance(kind, str)
            or kind not in STRETCHED
            or isinstance(factor, bool)
            or not isinstance(factor, int | float)
        ):
            return stated
        if not 1 <= factor <= MOST_STRETCHED:
            raise InvalidSpec(
                f"factor of rope_scaling in config.json is {show(factor)}; it must lie between 1 and {MOST_STRETCHED}."
            )
        original = scaling.get("original_max_position_embeddings") if kind == "yarn" else None
        trained = original if isinstance(original, int) and not isinstance(original, bool) and original > 0 else stated
        return max(stated, min(int(trained * factor), 2**31))

    def ratio(self, key: str, most: float = 1.0) -> float:
        """A number above 0, at least a thousandth and at most `most`."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.001 <= value <= most:
            raise InvalidSpec(f"{key} in config.json is {show(value)}; it must be a number from 0.001 to {most:g}.")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise InvalidSpec(f"{key} in config.json is {show(value)}; it must be true or false.")
        return value

    def count(self, key: str) -> int:
        """A whole number of at least 0."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**31:
            raise InvalidSpec(f"{key} in config.json is {show(value)}; it must be a whole number from 0 to 2**31.")
        return value

    def dense_layers(self, layers: int) -> int:
        """How many of the layers come before those with experts: all where more are named, as in Transformers."""
        return min(self.count("first_k_dense_replace"), layers)

    def absent(self, *keys: str) -> bool:
        """Whether neither the language model's part nor the whole has any of the keys."""
        return all(place.get(key) is None for place in (self.config, self.outer) for key in keys)

    def rotary_dim(self, head_dim: int, key: str = "partial_rotary_factor") -> int:
        """Elements that the rotary embedding turns, by the share that key states; 0: all."""
        rope = self.config.get("rope_parameters")
        share = rope.get("partial_rotary_factor") if isinstance(rope, Mapping) else None
        if share is None:
            share = self.config.get(key, self.defaults.get(key, 1.0))
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise InvalidSpec(f"{key} in config.json is {show(share)}; it must be above 0, at most 1.")
        turned = int(head_dim * share)
        return 0 if turned in (0, head_dim) else turned

    def activation(self) -> str:
        """Gemma calls the key hidden_activation; where that is null its class takes gelu_pytorch_tanh."""
        value = self.config.get("hidden_activation") or self.get("hidden_act")
        if not isinstance(value, str) or value not in ACTIVATION_OF:
            raise InvalidSpec(
                f"hidden_act in config.json is {show(value)}; one of {', '.join(ACTIVATION_OF)} is known."
            )
        return ACTIVATION_OF[value]

    def dtype(self) -> str:
        """Number format of the published weights that are not quantised."""
        for place in (self.config, self.outer):
            for key in ("torch_dtype", "dtype"):
                if (value := place.get(key)) is not None:
                    if not isinstance(value, str) or value not in DTYPE_OF:
                        known = ", ".join(DTYPE_OF)
                        raise InvalidSpec(f"{key} in config.json is {show(value)}; it must be one of {known}.")
                    return DTYPE_OF[value]
        raise InvalidSpec('config.json has no torch_dtype; add the format of the weights, such as "bfloat16".')


def language_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a multimodal config that describes its language model; else the whole."""
    text = config.get("text_config")
    if text is None:
        return config
    if not isinstance(text, Mapping):
        raise InvalidSpec(f"text_config of config.json is {show(text)}; it must be an object.")
    return text


def read(path: Path) -> tuple[Any, Path]:
    """The parsed JSON of a file, or of the config.json in a directory, and its path."""
    try:
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():  # a pipe or device would block
            raise UnknownModel(
                f'no file "{short(path)}"; give the path of a config.json or of a directory that has one.'
            )
        size = path.stat().st_size
        if size > LARGEST_FILE_BYTES:
            raise InvalidSpec(f'"{short(path)}" has {size} bytes; a config.json has at most {LARGEST_FILE_BYTES}.')
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE_BYTES + 1).decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_object), path
    except (OSError, ValueError, RecursionError) as error:  # JSON and Unicode errors are ValueErrors
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise InvalidSpec(f'cannot read "{short(path)}" as JSON: {reason}; give a valid config.json.') from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := repeated_key(pairs)) is not None:
        raise InvalidSpec(f"{show(twice)} appears twice in config.json; keep one.")
    return dict(pairs)


def short(path: Path) -> str:
    """A path that is safe to print."""
    return str(path).encode("unicode_escape").decode()[:200]


def show(value: object) -> str:
    """A value of a config, short enough for an error."""
    if isinstance(value, int) and value.bit_length() > 128:  # str() of an int of many digits raises
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, dict | list | tuple | set):
        return f"a {type(value).__name__} of {len(value)} entries"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
