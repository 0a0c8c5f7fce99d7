r"""The course's colours for eyes that lack one kind of cone, as simulated by colorspacious (Machado et al. 2009).

The measure is the palette that Okabe and Ito made for such eyes: no two of our colours may come closer to each other
than the closest two of theirs do.
"""

from itertools import combinations

import numpy as np
import pytest
from colorspacious import cspace_convert, deltaE

from coursekit.plots import COLOURS, MEMORY_COLOURS
from coursekit.plots.hybrid import FAMILIES

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
DEFICIENCIES = ("protanomaly", "deuteranomaly", "tritanomaly")
PALETTES = {"lines": COLOURS, "memory": tuple(MEMORY_COLOURS.values()), "families": tuple(FAMILIES.values())}


def seen(colour: str, deficiency: str) -> np.ndarray:
    r"""sRGB from 0 to 1 of a hex colour, as somebody with the whole deficiency sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    space = {"name": "sRGB1+CVD", "cvd_type": deficiency, "severity": 100}
    return np.clip(cspace_convert(rgb, space, "sRGB1"), 0, 1)


def closest(colours: tuple[str, ...], deficiency: str) -> tuple[float, str, str]:
    r"""The least distance in CAM02-UCS, where 1 is about what an eye can just tell, and between which two it is."""
    pairs = combinations(dict.fromkeys(colours), 2)
    return min((float(deltaE(seen(a, deficiency), seen(b, deficiency), input_space="sRGB1")), a, b) for a, b in pairs)


def test_the_measure_tells_what_such_eyes_confuse():
    r"""A red and a green of one lightness, for who lacks the cones that tell them apart and for who lacks others."""
    red_and_green = ("#c0504d", "#6f7f3f")
    assert closest(red_and_green, "tritanomaly")[0] > 30
    assert closest(red_and_green, "deuteranomaly")[0] < 5


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("name", PALETTES)
def test_colours_stay_apart(name, deficiency):
    least = min(closest(OKABE_ITO, kind)[0] for kind in DEFICIENCIES)
    assert closest(PALETTES[name], deficiency)[0] >= least
