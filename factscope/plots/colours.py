"""Colour scales with equal steps of lightness, computed rather than copied, for light and dark pages.

Each scale is a straight walk in lightness through OKLCH (Björn Ottosson, 2020, "A perceptual color space for image
processing"), so equal differences in a value look equally large, in print and to colour-blind eyes too: lightness alone
orders the values, hue only says which component is meant. Where a hue cannot be that colourful on a screen, the colour
gives way, never the lightness.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from factscope.plots.specs import Palette, Scale

Theme = Literal["light", "dark"]
ColourScale = list[tuple[float, str]]  # what plotly takes: place from 0 to 1, colour
LEVELS = 64  # colours of a map that is drawn without plotly

HUE = {"purple": 308.0, "green": 155.0, "red": 25.0, "blue": 255.0, "orange": 60.0}  # degrees in OKLCH
STEPS = 17  # plotly walks straight in sRGB between two of them; more steps look the same

# Ottosson 2020: OKLab to the cube roots of the cone responses, and cone responses to linear sRGB.
FROM_OKLAB = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
FROM_CONES = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@dataclass(frozen=True)
class Ink:
    """The colours around the data, one set per theme; `page.css` uses the same ones for its own text."""

    text: str
    faint: str  # axis titles, notes
    grid: str
    paper: str  # hover labels and exported pictures; on the page a figure is transparent
    accent: str  # the marked columns
    lines: tuple[str, ...]  # series in turn


INK: dict[Theme, Ink] = {
    "light": Ink(
        text="#1d2230",
        faint="#5f6778",
        grid="#e3e6ec",
        paper="#ffffff",
        accent="#b4530a",
        lines=("#0072b2", "#c45a00", "#00805f", "#a8457f", "#5b5fc7", "#6b6b6b"),  # after Okabe and Ito, 2008,
    ),  # darkened or lightened until each has a contrast of 3:1 with its paper
    "dark": Ink(
        text="#e4e7ee",
        faint="#9aa3b5",
        grid="#2b313d",
        paper="#161a22",
        accent="#f2a55c",
        lines=("#56b4e9", "#e69f00", "#2fc49a", "#dd8fbd", "#a3a6f5", "#b5b5b5"),
    ),
}


def lightness_scale(hue: float, start: float, end: float, chroma: float) -> np.ndarray:
    """sRGB colours `[step, channel]` from 0 to 1 along one hue; colour swells from almost none at the start."""
    along = np.linspace(0, 1, STEPS)
    colourful = chroma * np.sin(np.pi * (0.06 + 0.66 * along))
    return np.stack(
        [_in_gamut(light, much, hue) for light, much in zip(start + (end - start) * along, colourful, strict=True)]
    )


@cache
def colour_scale(scale: Scale, palette: Palette, theme: Theme) -> ColourScale:
    """The scale of a heatmap: the smallest (or zero) value close to the paper, the largest far from it."""
    start, end = (0.975, 0.33) if theme == "light" else (0.25, 0.92)
    if scale == "sequential":
        return _placed(lightness_scale(HUE[palette], start, end, 0.19))
    below, above = (lightness_scale(HUE[hue], start, end + (start - end) * 0.12, 0.17) for hue in ("blue", "orange"))
    middle = (below[0] + above[0]) / 2  # at zero the two are almost one grey; make them one
    return _placed(np.concatenate([below[:0:-1], middle[None], above[1:]]))


@cache
def grey_scale(theme: Theme) -> ColourScale:
    """For what is shown without a say: the same walk without colour, cut short so that it never outshines the data."""
    start, end = (0.96, 0.80) if theme == "light" else (0.25, 0.38)
    return _placed(lightness_scale(0.0, start, end, 0.0))


def line_colour(palette: Palette, theme: Theme) -> str:
    """A strong colour of one palette, for a line or a bar."""
    return _hexadecimal(_in_gamut(0.50 if theme == "light" else 0.74, 0.16, HUE[palette]))


def transparent(colour: str, opacity: float) -> str:
    """The same colour as a veil."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _placed(colours: np.ndarray) -> ColourScale:
    places = np.linspace(0, 1, len(colours))
    return [(round(float(place), 5), _hexadecimal(colour)) for place, colour in zip(places, colours, strict=True)]


def _hexadecimal(colour: np.ndarray) -> str:
    return "#" + "".join(f"{round(float(channel) * 255):02x}" for channel in colour)


def _in_gamut(lightness: float, chroma: float, hue: float) -> np.ndarray:
    """The most colourful sRGB colour of this lightness and hue that a screen can show, up to the chroma asked for."""
    for share in np.linspace(1, 0, 51):
        light = _linear_srgb(lightness, share * chroma, hue)
        if light.min() >= -1e-4 and light.max() <= 1 + 1e-4:  # grey is reached at the latest with share 0
            break
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)  # the sRGB transfer curve


def _linear_srgb(lightness: float, chroma: float, hue: float) -> np.ndarray:
    angle = np.deg2rad(hue)
    cone_roots = FROM_OKLAB @ np.array([lightness, chroma * np.cos(angle), chroma * np.sin(angle)])
    light: np.ndarray = FROM_CONES @ cone_roots**3
    return light


def colour_at(scale: ColourScale, share: float) -> str:
    """The colour of a share from 0 to 1, in LEVELS steps, straight between two colours of the scale."""
    share = round(share * (LEVELS - 1)) / (LEVELS - 1)
    places = [place for place, _ in scale]
    channels = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for _, colour in scale])
    mixed = [round(float(np.interp(share, places, channel))) for channel in channels.T]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def ink_on(colour: str) -> str:
    """Black or white, whichever is read better on a colour: the contrast is 4.5 to 1 or more (WCAG 2)."""
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "#000000" if float(linear @ (0.2126, 0.7152, 0.0722)) > 0.179 else "#ffffff"
