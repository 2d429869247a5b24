"""Many adapters in a batch: joined, each row has its own product and no other."""

import dataclasses

import numpy as np
import pytest

from t5_pegasus.config import ModelConfig
from t5_pegasus.engines.low_rank import Adapters
from t5_pegasus.errors import OptionError
from t5_pegasus.networks.lora import Adapter, Factors, LoraConfig, plan
from t5_pegasus.networks.t5_description import describe_t5


def make_adapter(description, seed, rank=2, targets=("q", "v"), spread=0.3, **settings):
    """Return an adapter with random values."""
    random = np.random.default_rng(seed)
    planned = plan(description, LoraConfig(r=rank, target_modules=targets, **settings))
    factors = {}
    for module in planned.targets:
        r = planned.config.rank(module.path)
        a, b = (
            random.normal(scale=spread, size=size).astype(np.float32)
            for size in ((module.inputs, r), (r, module.outputs))
        )
        factors[module.weight] = Factors(a, b, planned.config.scale(module.path, r))
    return Adapter(planned, factors, {})


@pytest.fixture(scope="module")
def description():
    return describe_t5(ModelConfig(9, 4, 2, 2, 6, 3))


def test_rows_have_the_products_of_their_own_adapters(description):
    """Of other ranks, here and there by a pattern, and of other modules."""
    adapters, random = Adapters(), np.random.default_rng(0)
    each = {
        "one": make_adapter(description, 1, 2),
        "two": make_adapter(description, 2, 3, ("q", "wo"), rank_pattern={"wo": 1}),
        "three": make_adapter(description, 3, 1, ("v",), use_rslora=True),
    }
    for name, adapter in each.items():
        adapters.add(name, adapter)
    names = ["two", None, "one", "two", "three", None]
    joined, columns = adapters.of_batch(names)
    assert columns.shape == (6, 2 + 3 + 1)
    assert set(joined.factors) == adapters.targets()
    for weight, (a, b) in joined.factors.items():
        x = random.normal(size=(6, a.shape[0])).astype(np.float32)
        found = (x @ a * columns) @ b
        for row, name in enumerate(names):
            own = None if name is None else each[name].factors.get(weight)
            expected = np.zeros(b.shape[1]) if own is None else own.scale * (x[row] @ own.a) @ own.b
            np.testing.assert_allclose(found[row], expected, atol=1e-4, err_msg=f"{weight} {name}")


def test_adapters_come_and_go(description):
    adapters, first, second = Adapters(), make_adapter(description, 1), make_adapter(description, 2)
    adapters.add("a", first)
    joined, _ = adapters.of_batch(["a"])
    weight = next(iter(first.factors))
    np.testing.assert_array_equal(joined.factors[weight][0], first.factors[weight].a)
    adapters.add("a", second)
    np.testing.assert_array_equal(adapters.of_batch(["a"])[0].factors[weight][0], second.factors[weight].a)
    adapters.add("b", first)
    assert adapters.names == ("a", "b")
    adapters.remove("a")
    for call in (lambda: adapters.remove("a"), lambda: adapters.of_batch(["b", "a"])):
        with pytest.raises(OptionError, match="adapter must be one of b, got a"):
            call()
    joined, columns = adapters.of_batch([None, None])
    assert joined is None
    assert columns.shape == (2, 0)


def test_whole_modules_must_be_merged(description):
    adapter = dataclasses.replace(make_adapter(description, 1), saved={"decoder/rms_norm/scale": np.ones(4)})
    with pytest.raises(OptionError, match=r"the adapter a has whole modules .* must be merged"):
        Adapters().add("a", adapter)
