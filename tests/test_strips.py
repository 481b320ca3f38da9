"""Strips: what one pass over the whole gives, at any height, and no more rows than are needed."""

import gc
import weakref

import keras
import numpy as np
import pytest
from conftest import WINDOWLESS
from keras import layers

from cloudmask.models import build
from cloudmask.stages import cut
from cloudmask.strips import Strips


def trained(architecture):
    """A network whose batch normalisations do something."""
    keras.utils.set_random_seed(5)
    network = build(architecture)
    rng = np.random.default_rng(5)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            shape = layer.gamma.shape
            low, high = 0.3, 0.9
            layer.set_weights(
                [rng.uniform(low, high, shape), *rng.normal(0, 0.1, (2, *shape)),
                 rng.uniform(low, high, shape)]
            )  # fmt: skip
    return network


@pytest.fixture(scope="module", params=WINDOWLESS)
def network(request):
    return trained(request.param)


@pytest.fixture(scope="module")
def strips(network):
    return Strips(network)


@pytest.mark.parametrize(
    ("height", "rows"), [(32, 32), (96, 32), (160, 64), (224, 96), (256, 160), (256, 512)]
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_strips_are_one_pass(network, strips, rng, height, rows, dtype):
    pixels = rng.integers(0, 256, (2, height, 64, 3)).astype(dtype)
    whole = network(pixels.astype("float32"), training=False).numpy()[..., 0]
    assert whole.std() > 1e-3
    np.testing.assert_allclose(strips(pixels, rows), whole, atol=1e-4)


def test_no_stage_makes_a_row_twice_nor_keeps_one_for_long(strips, rng, monkeypatch):
    from cloudmask import strips as module

    made, kept, added = {}, [], []

    class Kept(module._Kept):
        def add(self, rows):
            super().add(rows)
            made[id(self)] = (self, made.get(id(self), (self, 0))[1] + rows.shape[0])
            kept.append(sum(part.shape[0] for _, part in self.parts))
            added.append(rows.shape[0])

    monkeypatch.setattr(module, "_Kept", Kept)
    strips(rng.integers(0, 256, (1, 1536, 32, 3), "uint8"), 64)
    assert made
    assert all(one.made == count == one.height for one, count in made.values())
    # A skip connection waits for the deepest layers, which see some 220 to 260 rows each way.
    assert max(kept) <= 256 + 2 * 64
    assert max(added) <= 64 + 32  # also at the top, where those layers want hundreds at once


def test_nothing_is_enlarged_or_joined_before_it_is_convolved(network, strips):
    strips(np.zeros((1, 96, 32, 3), "uint8"), 32)
    graphs = [compiled.graph for stage in strips._stages for compiled in stage.compiled.values()]
    kinds = {op.type for graph in graphs for op in graph.get_operations()}
    assert "Conv2D" in kinds
    assert "ConcatV2" not in kinds
    steps = [step for stage in strips._stages for step in stage.steps if step.grows > 1]
    convolving = [step for step in steps if step.looks_around]
    levels = {"lite": 4, "slim_lite": 9, "lite_pair": 8}.get(network.name, 5)  # on the way back
    assert len(convolving) == levels
    assert len(steps) - len(convolving) <= 1  # squares of `lite` become pixels


@pytest.mark.parametrize("architecture", WINDOWLESS)
def test_the_network_need_not_stay(architecture):
    network = build(architecture)
    kernels = [weakref.ref(weight) for weight in network.weights]
    strips = Strips(network)
    del network
    gc.collect()
    assert not any(kernel() for kernel in kernels)
    assert strips(np.zeros((1, 32, 32, 3), "uint8"), 32).shape == (1, 32, 32)


def test_a_branch_is_cut_where_it_would_be_alone():
    """What two branches do between one another's layers is no end of a stage."""
    alone, both = (len(cut(build(name))) for name in ("lite", "lite_pair"))
    assert both <= 2 * alone + 2  # what both are given, and their mean


def test_an_operation_that_is_not_known_is_refused():
    inputs = layers.Input((None, None, 3))
    network = keras.Model(inputs, layers.Conv2DTranspose(1, 2, 2, name="odd")(inputs))
    with pytest.raises(TypeError, match="odd is a Conv2DTranspose"):
        Strips(network)


@pytest.mark.parametrize("how", [{"padding": "valid"}, {"dilation_rate": 2}, {"groups": 3}])
def test_a_convolution_that_sees_other_rows_is_refused(how):
    inputs = layers.Input((None, None, 3))
    made = layers.Conv2D(3, 3, **{"padding": "same", "name": "odd"} | how)(inputs)
    with pytest.raises(TypeError, match="odd is no plain convolution"):
        Strips(keras.Model(inputs, made))
