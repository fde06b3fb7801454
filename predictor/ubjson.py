"""Boosters as XGBoost stores them, UBJSON, read with every length and index checked: XGBoost trusts those of a file.

XGBoost 3 follows lengths beyond the end of a file and children beyond those of a tree into memory of others, which ends
the process. `check_booster` is asked before it of every booster that did not come with this package. Formats:
https://ubjson.org (draft 12, big-endian), and doc/model.schema of XGBoost.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

NOBODY = 2**31 - 1  # parent of the root
MOST_DEPTH = 16  # boosters have 8
NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
LENGTHS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q"}
CONSTANTS = {b"Z": None, b"T": True, b"F": False}
OF_NODES = ("left_children", "right_children", "parents", "split_indices", "split_type", "default_left")
NUMBERS_OF_NODES = ("split_conditions", "base_weights", "loss_changes", "sum_hessian")
CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")


def check_booster(content: bytes) -> None:
    """Raise ValueError where content is no booster of trees whose every index is of something that is there."""
    try:
        _check(_Reader(content).whole())
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from None


class _Reader:
    """Reads values one after the other; typed arrays as arrays of NumPy."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def whole(self) -> Any:
        value = self._value(self._take(1), 0)
        if self.at != len(self.content):
            raise ValueError("bytes after its end")
        return value

    def _take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.content) - self.at:
            raise ValueError(f"{count} bytes are said to follow byte {self.at}, {len(self.content) - self.at} do")
        self.at += count
        return self.content[self.at - count : self.at]

    def _length(self) -> int:
        form = LENGTHS[self._take(1)]
        length: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return length

    def _value(self, mark: bytes, depth: int) -> Any:
        if depth > MOST_DEPTH:
            raise ValueError("values within values, too deep")
        if mark == b"{":
            return self._object(depth)
        if mark == b"[":
            return self._array(depth)
        if mark == b"S":
            return self._take(self._length()).decode()
        if mark in CONSTANTS:
            return CONSTANTS[mark]
        kind = np.dtype(NUMBERS[mark])
        return np.frombuffer(self._take(kind.itemsize), kind)[0]

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.content[self.at : self.at + 1] != b"}":
            name = self._take(self._length()).decode()
            if name in found:
                raise ValueError(f"{name[:40]} twice")
            found[name] = self._value(self._take(1), depth + 1)
        self.at += 1
        return found

    def _array(self, depth: int) -> Any:
        mark = self._take(1)
        if mark == b"$":
            kind = np.dtype(NUMBERS[self._take(1)])
            if self._take(1) != b"#":
                raise ValueError("an array of a type without a length")
            return np.frombuffer(self._take(self._length() * kind.itemsize), kind)
        if mark == b"#":
            count = self._length()
            if count > len(self.content) - self.at:  # each takes a byte at least
                raise ValueError(f"{count} values in fewer bytes")
            return [self._value(self._take(1), depth + 1) for _ in range(count)]
        found = []
        while mark != b"]":
            found.append(self._value(mark, depth + 1))
            mark = self._take(1)
        return found


def _check(booster: Any) -> None:
    learner = booster["learner"]
    features = int(learner["learner_model_param"]["num_feature"])
    if [int(learner["learner_model_param"][name]) for name in ("num_class", "num_target")] != [0, 1]:
        raise ValueError("more than one figure")
    if learner["gradient_booster"]["name"] != "gbtree":
        raise ValueError("no trees")
    model = learner["gradient_booster"]["model"]
    trees = model["trees"]
    if int(model["gbtree_model_param"]["num_trees"]) != len(trees) or int(
        model["gbtree_model_param"]["num_parallel_tree"]
    ) not in (0, 1):
        raise ValueError("another number of trees than it says")
    groups, ends = np.asarray(model["tree_info"]), np.asarray(model["iteration_indptr"])
    if groups.shape != (len(trees),) or groups.any():
        raise ValueError("trees of unknown groups")
    if len(ends) and not (ends[0] == 0 and ends[-1] == len(trees) and (np.diff(ends) >= 0).all()):
        raise ValueError("rounds of trees that are not there")
    if any(len(part) for part in model.get("cats", {}).values() if hasattr(part, "__len__")):
        raise ValueError("categories, which no estimator has")
    for tree in trees:
        _check_tree(tree, features)


def _check_tree(tree: Any, features: int) -> None:
    count = len(tree["left_children"])
    sizes = tree["tree_param"]
    if [int(sizes[name]) for name in ("num_nodes", "num_feature", "size_leaf_vector")] != [count, features, 1]:
        raise ValueError("a tree of another size than it says")
    nodes = {name: np.asarray(tree[name]) for name in (*OF_NODES, *NUMBERS_OF_NODES)}
    if not count or any(array.shape != (count,) for array in nodes.values()):
        raise ValueError("a tree whose columns differ in length")
    if any(nodes[name].dtype.kind not in "iu" for name in OF_NODES):
        raise ValueError("a tree with a number that is none of a node")
    if nodes["split_type"].any() or any(len(tree.get(name, ())) for name in CATEGORIES):
        raise ValueError("categories, which no estimator has")
    left, right, split = nodes["left_children"], nodes["right_children"], nodes["split_indices"]
    children = np.concatenate([left[left != -1], right[right != -1]])
    if ((left == -1) != (right == -1)).any() or (children < 1).any() or (children >= count).any():
        raise ValueError("a node whose children are not there")
    if len(np.unique(children)) != len(children):  # else a walk may have no end
        raise ValueError("a node with two parents")
    parents, inner = nodes["parents"], np.flatnonzero(left != -1)
    known = (parents[left[inner]] == inner) & (parents[right[inner]] == inner)
    if (
        not known.all()
        or parents[0] != NOBODY
        or not ((parents == NOBODY) | ((parents >= 0) & (parents < count))).all()
    ):
        raise ValueError("a node whose parent is another")
    if (split < 0).any() or (split[left != -1] >= features).any():
        raise ValueError("a split by a feature that is not there")
