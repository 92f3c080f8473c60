"""Pictures spoilt on purpose, so that there is something to restore and a truth to hold it against. Knows no model."""

import numpy as np
from PIL import Image, ImageFilter

GAUSSIAN, SALT, BLUR, NOTHING = "Gaussian", "Salt and pepper", "Blur", "It is noisy already"
KINDS = (GAUSSIAN, SALT, BLUR, NOTHING)
BLURRED = 6.0  # pixels, the radius at an amount of 1


def lower_half(size: tuple[int, int]) -> Image.Image:
    """A mask, white in its lower half."""
    mask = Image.new("L", size)
    mask.paste(255, (0, size[1] // 2, *size))
    return mask


def erased(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """Grey where the mask is white."""
    return Image.composite(Image.new(picture.mode, picture.size, "grey"), picture, mask)


def spoilt(picture: Image.Image, kind: str, amount: float) -> Image.Image:
    """Under noise that is always the same, or blurred.  amount: of Gaussian noise its standard deviation, of pixels in
    [0, 1]; of salt and pepper the share of the pixels; 1 blurs most."""
    if kind == NOTHING:
        return picture
    if kind == BLUR:
        return picture.filter(ImageFilter.GaussianBlur(BLURRED * amount))
    rng, pixels = np.random.default_rng(0), np.asarray(picture) / 255
    if kind == GAUSSIAN:
        pixels = pixels + amount * rng.standard_normal(pixels.shape)
    else:
        places, values = rng.random(pixels.shape[:2]) < amount, rng.integers(0, 2, pixels.shape[:2])
        pixels[places] = values[places][:, None] if pixels.ndim == 3 else values[places]
    return Image.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8))
