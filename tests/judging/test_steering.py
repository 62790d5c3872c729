"""Whether pictures obey, on few of them; docs/steering.md has the numbers of many."""

import numpy as np
import pytest

from lib_oms.judging.painter import Painter
from lib_oms.judging.steering import evaluate_modifiers, evaluate_splits, layouts

FACTS = {"variant": "main", "sampler": "Euler", "steps": 20, "cfg": 3.0, "seed": 5}


def test_layouts_are_the_same_for_a_seed_and_have_two_sides():
    made = layouts(6, 3)
    assert np.array_equal(made, layouts(6, 3))
    assert not np.array_equal(made, layouts(6, 4))
    assert (np.ptp(made, axis=(1, 2)).mean(axis=1) > 0.3).all()
    assert {len(np.unique(layout.reshape(-1, 3), axis=0)) for layout in made[::2]} == {2}


@pytest.mark.slow
def test_strength_and_trims_go_the_asked_way():
    found = evaluate_modifiers(Painter(**FACTS), **FACTS, seeds=10)
    assert found.strength_monotone == 1.0
    assert found.strength_brightness == sorted(found.strength_brightness, reverse=True)
    assert min(found.darker, found.brighter, found.less_color, found.more_color) >= 0.9


@pytest.mark.slow
def test_splits_lie_where_they_were_asked_for():
    found = evaluate_splits(Painter(**FACTS), **FACTS, quiet=6, count=4, each=1)
    assert found.correlation_mean > 0.5
