"""Parametric faces: identities, images and the renderer of the embedded ``synthfaces`` protocols.

An identity is a vector of attributes in [0, 1] (:data:`ATTRIBUTES`). An image adds nuisances that
have nothing to do with who is shown (:data:`NUISANCES`): pose, expression, lighting, background and
sensor noise. The renderer paints soft signed-distance shapes back to front, supersampled twice, and
is a pure function of its inputs: equal seeds give equal images on one machine, and images that
differ by at most rounding on another.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mibench.progress import SILENT, Progress

# fmt: off
ATTRIBUTES: tuple[str, ...] = (
    "skin_tone", "skin_hue", "face_width", "face_height", "jaw", "hair_colour", "hair_shade",
    "hair_length", "hairline", "hair_volume", "parting", "brow_thickness", "brow_angle",
    "brow_height", "eye_spacing", "eye_size", "eye_colour", "nose_length", "nose_width",
    "mouth_width", "lip_thickness", "lip_colour", "beard", "glasses",
)
NUISANCES: tuple[str, ...] = (
    "yaw", "pitch", "roll", "scale", "shift_x", "shift_y", "smile", "mouth_open", "blink",
    "brow_raise", "light_angle", "light_strength", "light_level", "light_warmth", "back_red",
    "back_green", "back_blue", "back_gradient",
)
# fmt: on

# Share of identities that are a close relative of an earlier one, and how close (in attributes).
LOOKALIKE_SHARE = 0.25
LOOKALIKE_SPREAD = 0.14
FAMILY = 200  # identities that are drawn together where single ones are to be exchangeable

_SKIN = torch.tensor(
    [[0.98, 0.84, 0.74], [0.90, 0.70, 0.55], [0.72, 0.50, 0.36], [0.45, 0.29, 0.20]]
)
_BLACK, _BROWN, _RED = [0.07, 0.06, 0.07], [0.36, 0.20, 0.10], [0.72, 0.30, 0.10]
_BLOND, _GREY = [0.90, 0.74, 0.36], [0.78, 0.78, 0.80]
_HAIR = torch.tensor([_BLACK, _BROWN, _RED, _BLOND, _GREY])
_EYES = torch.tensor([[0.22, 0.12, 0.06], [0.18, 0.45, 0.22], [0.16, 0.40, 0.78]])
_NOISE = 0.015  # standard deviation of the sensor noise, in units of the [0, 1] intensity range


def sample_identities(count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` identities, some of them lookalikes of earlier ones.

    Args:
        count: number of identities, at least 1.
        generator: CPU generator; its state decides the draw.

    Returns:
        Float tensor ``(count, len(ATTRIBUTES))`` with values in [0, 1].
    """
    identities = torch.rand(count, len(ATTRIBUTES), generator=generator)
    relative = torch.rand(count, generator=generator) < LOOKALIKE_SHARE
    sibling = (torch.rand(count, generator=generator) * torch.arange(count)).long()
    offset = torch.randn(count, len(ATTRIBUTES), generator=generator) * LOOKALIKE_SPREAD
    for index in range(1, count):
        if relative[index]:
            identities[index] = (identities[sibling[index]] + offset[index]).clamp(0, 1)
    return identities


def sample_apart(count: int, members: int, generator: torch.Generator) -> Tensor:
    """Draw identities of which no two groups are related: each group is of a family of its own.

    A family is a draw of :data:`FAMILY` identities, some of them lookalikes of others. One member
    has the law that every member of such a draw has, so that single identities are exchangeable
    with those of whole families; and nothing that is known of one group tells of another.

    Args:
        count: groups.
        members: of each, different ones of its family.
        generator: CPU generator; its state decides the draw.

    Returns:
        Float tensor ``(count, members, len(ATTRIBUTES))`` with values in [0, 1].
    """
    groups = []
    for _ in range(count):
        family = sample_identities(FAMILY, generator)
        groups.append(family[torch.randperm(FAMILY, generator=generator)[:members]])
    return torch.stack(groups)


def sample_nuisances(count: int, generator: torch.Generator) -> Tensor:
    """Draw pose, expression, lighting and background of ``count`` images.

    Returns:
        Float tensor ``(count, len(NUISANCES))``; pose and expression are in about [-1, 1],
        lighting and background in [0, 1].
    """
    values = torch.rand(count, len(NUISANCES), generator=generator)
    pose = slice(0, NUISANCES.index("mouth_open"))
    values[:, pose] = values[:, pose] * 2 - 1
    return values


def _palette(colours: Tensor, position: Tensor) -> Tensor:
    """Interpolate linearly in a ``(k, 3)`` palette at positions in [0, 1]: ``(n, 3)``."""
    scaled = position.clamp(0, 1) * (len(colours) - 1)
    low = scaled.floor().long().clamp(max=len(colours) - 2)
    part = (scaled - low).unsqueeze(1)
    return colours[low] * (1 - part) + colours[low + 1] * part


class _Canvas:
    """A batch of pictures painted back to front with soft-edged shapes."""

    def __init__(self, background: Tensor, edge: float) -> None:
        self.pixels = background
        self.edge = edge

    def cover(self, distance: Tensor, softness: float = 1.0) -> Tensor:
        """Coverage in [0, 1] of a shape given its signed distance (negative inside)."""
        return (0.5 - distance / (self.edge * softness)).clamp_(0, 1)

    def paint(self, alpha: Tensor, colour: Tensor) -> None:
        """Blend a colour ``(n, 3)`` over the pictures where ``alpha`` ``(n, h, w)`` is positive."""
        for channel in range(3):
            layer = self.pixels[:, channel]
            layer += alpha * (colour[:, channel, None, None] - layer)


def _ellipse(x: Tensor, y: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Approximate signed distance to an axis-aligned ellipse at the origin."""
    radius = torch.sqrt((x / width) ** 2 + (y / height) ** 2 + 1e-6)
    return (radius - 1) * torch.minimum(width, height)


def render(identities: Tensor, nuisances: Tensor, resolution: int, noise: Tensor) -> Tensor:
    """Render faces.

    Args:
        identities: ``(n, len(ATTRIBUTES))`` in [0, 1].
        nuisances: ``(n, len(NUISANCES))`` as :func:`sample_nuisances` gives them.
        resolution: height and width of the pictures in pixels.
        noise: ``(n, 3, resolution, resolution)`` standard normal sensor noise.

    Returns:
        ``uint8`` tensor ``(n, 3, resolution, resolution)``.
    """
    a = {name: identities[:, i, None, None] for i, name in enumerate(ATTRIBUTES)}
    v = {name: nuisances[:, i, None, None] for i, name in enumerate(NUISANCES)}
    size = resolution * 2
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) / size * 2 - 1
    grid_y, grid_x = axis[None, :, None], axis[None, None, :]

    # Head coordinates: shift, roll and scale undone; x to the right, y down, face about .5 × .7.
    angle, zoom = v["roll"] * 0.14, 1.22 + v["scale"] * 0.09
    x0 = (grid_x - v["shift_x"] * 0.08) / zoom
    y0 = (grid_y - v["shift_y"] * 0.07 - 0.02) / zoom
    cosine, sine = torch.cos(angle), torch.sin(angle)
    x, y = cosine * x0 + sine * y0, cosine * y0 - sine * x0
    # Turning the head moves what lies in front (features, nose) with the turn and what lies behind
    # (back of the hair) against it.
    yaw, pitch = v["yaw"] * 0.11, v["pitch"] * 0.07
    u, w = x - yaw, y - pitch
    across = u.abs()

    back = nuisances[:, NUISANCES.index("back_red") : NUISANCES.index("back_blue") + 1]
    gradient = 1 + (v["back_gradient"] - 0.5) * grid_y
    background = (back[:, :, None, None] * 0.85 + 0.08) * gradient.unsqueeze(1)
    canvas = _Canvas(background.expand(-1, -1, size, size).clone(), edge=2.5 / size * 2)

    skin = _palette(_SKIN, identities[:, 0])
    skin = skin * (1 + (identities[:, 1:2] - 0.5) * torch.tensor([[-0.10, 0.16, -0.34]]))
    shadow = skin * 0.62
    hair = _palette(_HAIR, identities[:, 5]) * (0.75 + 0.5 * identities[:, 6:7])
    hair = hair.clamp(0, 1)

    face_w = 0.42 + 0.16 * a["face_width"]
    face_h = 0.58 + 0.16 * a["face_height"]
    jaw = 0.42 + 0.5 * a["jaw"]
    volume = 0.04 + 0.12 * a["hair_volume"]
    length = a["hair_length"]

    # Back of the hair: a cap for short hair, down to the shoulders for long hair.
    hx, drop = x + yaw * 0.3, -0.12 + 1.05 * length
    cap = _ellipse(hx, y + 0.14, face_w + volume, face_h * 0.82 + volume)
    curtain = torch.maximum(hx.abs() - (face_w + volume * (0.7 + 0.5 * length)), y - drop)
    curtain = torch.maximum(curtain, -0.14 - y)
    canvas.paint(canvas.cover(torch.minimum(cap, curtain), 1.5), hair * 0.8)

    # Shoulders and neck, in a cloth colour that is a nuisance.
    cloth = (1 - back).clamp(0, 1) * 0.6 + 0.2
    canvas.paint(canvas.cover(_ellipse(x, y - 1.28, face_w * 1.9, face_h * 0.62)), cloth)
    neck = torch.maximum(x.abs() - face_w * 0.5, (y - 0.62).abs() - 0.36)
    canvas.paint(canvas.cover(neck, 2.0), shadow)

    # Ears, then the face: an ellipse whose lower half narrows to the jaw.
    ears = _ellipse(x.abs() - face_w * 0.98, y - 0.04, face_w * 0.0 + 0.08, face_w * 0.0 + 0.13)
    canvas.paint(canvas.cover(ears), skin * 0.86)
    below = (y / face_h).clamp(0, 1)
    half_width = face_w * (1 - (1 - jaw) * 0.75 * below**2)
    roundness = 2.0 + 0.8 * a["jaw"]
    inside = (x.abs() / half_width) ** roundness + (y.abs() / face_h) ** roundness
    face = (inside - 1) * face_w * 0.5
    face_alpha = canvas.cover(face)
    canvas.paint(face_alpha, skin)

    # Soft shading towards the edge of the face, and a light from one side.
    light = v["light_angle"] * u * (0.25 + 0.55 * v["light_strength"])
    rim = (inside.clamp(0, 1) ** 3) * 0.22
    shade = (1 - rim + light).clamp(0.4, 1.35)

    # Beard: stubble colour over the lower face, fading in with the attribute above one half.
    amount = ((a["beard"] - 0.5) * 4).clamp(0, 1)
    beard = torch.maximum(face + 0.02, 0.2 + 0.12 * (1 - amount) - w + 0.25 * (0.16 - across))
    canvas.paint(canvas.cover(beard, 2.0) * amount * 0.85, hair * 0.85)

    # Mouth: curved by the expression; opening shows the dark inside.
    mouth_y = 0.36 + 0.04 * a["face_height"]
    mouth_w = 0.12 + 0.14 * a["mouth_width"]
    lips = 0.028 + 0.05 * a["lip_thickness"]
    opening = v["mouth_open"] * 0.045
    bend = (u / mouth_w).clamp(-1.1, 1.1) ** 2
    curve = w - mouth_y - v["smile"] * 0.08 * (0.4 - bend)
    lip_colour = skin * 0.55 + torch.tensor([[0.36, 0.06, 0.09]])
    red = torch.tensor([[0.80, 0.08, 0.16]])
    tint = identities[:, 21:22]
    lip_colour = (lip_colour * (1 - tint) + red * tint).clamp(0, 1)
    canvas.paint(canvas.cover(_ellipse(u, curve, mouth_w, lips + opening)), lip_colour)
    inner = _ellipse(u, curve, mouth_w * 0.75, opening * 0.9 + 0.004)
    canvas.paint(canvas.cover(inner), lip_colour * 0.35)

    # Nose: a shadowed wedge that turns with the head more than the rest.
    nose_l = 0.10 + 0.14 * a["nose_length"]
    nose_w = 0.035 + 0.075 * a["nose_width"]
    nx, ny = x - yaw * 1.5, w - (0.02 + nose_l * 0.5)
    along = (ny / nose_l + 0.5).clamp(0, 1)
    wedge = torch.maximum(nx.abs() - nose_w * (0.3 + 0.7 * along), ny.abs() - nose_l * 0.5)
    canvas.paint(canvas.cover(wedge, 2.0) * (0.15 + 0.4 * along), shadow)
    tip = _ellipse(nx, ny - nose_l * 0.5, nose_w * 1.15, nose_w * 0.0 + 0.035)
    canvas.paint(canvas.cover(tip, 1.5) * 0.75, shadow * 0.9)

    # Eyes: white, iris, pupil; the lids close with the blink.
    eye_x = 0.15 + 0.10 * a["eye_spacing"]
    eye_w = 0.075 + 0.055 * a["eye_size"]
    eye_h = eye_w * 0.62 * (1 - 0.5 * v["blink"] ** 2)
    ex, ey = across - eye_x, w + 0.08
    eye = _ellipse(ex, ey, eye_w, eye_h)
    eye_alpha = canvas.cover(eye)
    canvas.paint(canvas.cover(eye - 0.02), shadow * 0.7)
    canvas.paint(eye_alpha, torch.full_like(skin, 0.96))
    iris = _palette(_EYES, identities[:, 16])
    look = u.sign() * v["yaw"] * 0.015
    canvas.paint(
        canvas.cover(_ellipse(ex - look, ey, eye_w * 0.58, eye_w * 0.58)) * eye_alpha, iris
    )
    canvas.paint(
        canvas.cover(_ellipse(ex - look, ey, eye_w * 0.25, eye_w * 0.25)) * eye_alpha, iris * 0.15
    )

    # Brows: slanted bars.
    brow_y = -0.21 - 0.09 * a["brow_height"] - 0.03 * v["brow_raise"]
    slant = (a["brow_angle"] - 0.5) * 0.9
    thickness = 0.016 + 0.036 * a["brow_thickness"]
    bar = torch.maximum(
        (ex - 0.01).abs() - (eye_w * 1.25), (w - brow_y - slant * ex).abs() - thickness
    )
    canvas.paint(canvas.cover(bar, 1.2), hair * 0.7)

    # Glasses: rims with a bridge, for identities above 0.7, thicker further up.
    worn = ((a["glasses"] - 0.7) * 12).clamp(0, 1)
    rim_w, rim_h = eye_w + 0.055, eye_w * 0.0 + 0.115
    frame = _ellipse(ex, ey, rim_w, rim_h).abs() - 0.017
    bridge = torch.maximum((w + 0.09).abs() - 0.017, across - (eye_x - rim_w))
    arms = torch.maximum(
        torch.maximum((w + 0.09).abs() - 0.017, (eye_x + rim_w) - across), across - face_w
    )
    frames = torch.minimum(torch.minimum(frame, bridge), arms)
    canvas.paint(canvas.cover(frames) * worn, torch.full_like(skin, 0.08))

    # Front of the hair: everything of the head above a hairline that bends with the parting.
    part = (a["parting"] - 0.5) * 1.6
    hairline = (
        -0.56 + 0.28 * (1 - a["hairline"]) + 0.42 * (across / face_w) ** 2 * (length * 0.5 + 0.15)
    )
    fringe = torch.maximum(cap, y - hairline - part * u * 0.45)
    canvas.paint(canvas.cover(fringe, 1.2), hair)

    pixels = canvas.pixels
    head = canvas.cover(torch.minimum(torch.minimum(face, cap), neck), 4.0)
    pixels *= (1 + head * (shade - 1)).unsqueeze(1)
    warmth = (v["light_warmth"] - 0.5) * 0.16
    level = 0.78 + 0.4 * v["light_level"]
    tinted = torch.cat([level * (1 + warmth), level, level * (1 - warmth)], dim=1)
    pixels *= tinted.view(-1, 3, 1, 1)
    small = torch.nn.functional.avg_pool2d(pixels, 2)
    small = small + noise * _NOISE
    return (small.clamp_(0, 1) * 255).round_().to(torch.uint8)


def render_identities(
    identities: Tensor,
    images: int,
    resolution: int,
    generator: torch.Generator,
    progress: Progress = SILENT,
) -> Tensor:
    """Render ``images`` pictures of each identity, identity by identity.

    Args:
        identities: ``(k, len(ATTRIBUTES))`` in [0, 1].
        images: pictures per identity.
        resolution: height and width in pixels.
        generator: CPU generator for nuisances and sensor noise.
        progress: told of each chunk of pictures.

    Returns:
        ``uint8`` tensor ``(k · images, 3, resolution, resolution)``.
    """
    total = len(identities) * images
    result = torch.empty(total, 3, resolution, resolution, dtype=torch.uint8)
    chunk = max(1, math.ceil(64 * (32 / resolution) ** 2))
    every = identities.repeat_interleave(images, dim=0)
    for index in progress.steps(math.ceil(total / chunk), "pictures"):
        rows = slice(index * chunk, min((index + 1) * chunk, total))
        count = rows.stop - rows.start
        nuisances = sample_nuisances(count, generator)
        noise = torch.randn(count, 3, resolution, resolution, generator=generator)
        result[rows] = render(every[rows], nuisances, resolution, noise)
    return result
