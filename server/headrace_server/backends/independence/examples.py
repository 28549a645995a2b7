"""Makes tf.Examples for a model that parses them itself, by learning from the errors for Examples that it refuses."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from headrace_protos import Example

# TensorFlow's example_proto_fast_parsing.cc has these texts.
_REQUIRED = re.compile(r"Feature: (?P<name>.+?) \(data type: (?P<kind>\w+)\) is required")
_KEY = r"Key: (?P<name>.+?)(?:, Index: \d+)?\.\s+"
_OTHER_KIND = re.compile(_KEY + r"Data types don't match\..*[Ee]xpected type: (?P<kind>\w+)")
_OTHER_SIZE = re.compile(_KEY + r"Number of \w+ values != expected\..*output shape: \[(?P<shape>[\d,]*)\]")

MakeReals = Callable[[int], list[float]]


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature that the model wants: its name, its kind as TensorFlow writes it, and how many values it has."""

    name: str
    kind: str
    size: int = 1


Features = dict[str, Feature]


def learn(features: Features, refusal: str) -> bool:
    """Learns from an error about a model's features; returns whether the error said anything new."""
    if found := _REQUIRED.search(refusal) or _OTHER_KIND.search(refusal):
        new = Feature(found["name"], found["kind"])
    elif (found := _OTHER_SIZE.search(refusal)) and found["name"] in features:
        sizes = [int(size) for size in found["shape"].split(",") if size]
        new = replace(features[found["name"]], size=prod(sizes))
    else:
        return False
    changed = features.get(new.name) != new
    features[new.name] = new
    return changed


def serialized(
    features: tuple[Feature, ...], reals: Callable[[int], list[float]], random: np.random.Generator
) -> bytes:
    """An Example that has these features.

    Args:
        features: The features that the Example has.
        reals: Draws this many floating-point numbers.
        random: Draws everything else.
    """
    example = Example()
    for feature in features:
        values = example.features.feature[feature.name]
        if feature.kind == "float":
            values.float_list.value.extend(reals(feature.size))
        elif feature.kind == "int64":
            values.int64_list.value.extend(random.integers(0, 2, feature.size).tolist())
        else:
            words = random.choice(["one", "two", "three"], feature.size)
            values.bytes_list.value.extend(word.encode() for word in words)
    return example.SerializeToString()
