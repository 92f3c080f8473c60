"""Pictures in a table with words around them, as one picture. It knows no model and no page."""

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from mmdemo import images

SIDE = 128  # pixels, about: a picture's own are enlarged a whole number of times
GAP, MARGIN, TEXT = 8, 24, 18
LINE = 28  # from one line of words to the next
WIDEST = 240  # pixels for the words left of a row
TITLE = 640  # pixels that a title may take, however few pictures there are
LINES = 16  # of a heading: most prompts are read whole
INK, PALE = "#0f172a", "#64748b"
# Pillow's own font has no Chinese; one of these has, where it is installed.
WIDER_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "PingFang.ttc", "msyh.ttc")


def table(
    pictures: list[list[Image.Image]],  # row by row, all of one size
    columns: list[str],
    rows: list[str],  # one a row; "" leaves a row without words
    title: str,
    across: str = "",  # what the columns are
    down: str = "",  # what the rows are
) -> Image.Image:
    """The pictures, with a title, what the columns and the rows are, and the value of each."""
    font = font_for("".join([*columns, *rows, title]))
    pictures = [[images.enlarge(one, SIDE) for one in row] for row in pictures]
    width, height = pictures[0][0].size
    rows = [wrapped(text, font, WIDEST) for text in rows]
    left = max(font.getlength(line) for lines in (*rows, [down]) for line in lines)
    left = MARGIN + (round(left) + 2 * GAP if left else 0)
    right = left + len(columns) * (width + GAP) - GAP
    titles = wrapped(title, font, max(right - MARGIN, TITLE))
    heads = [wrapped(text, font, width) for text in columns]
    across_at = MARGIN + LINE * len(titles)
    heads_at = across_at + LINE * bool(across or down)
    top = heads_at + LINE * max(map(len, heads)) + GAP
    heights = [max(height, LINE * len(lines)) for lines in rows]
    wide = max(right, MARGIN + round(max(map(font.getlength, titles))))
    page = Image.new("RGB", (wide + MARGIN, top + sum(heights) + (len(rows) - 1) * GAP + MARGIN), "white")
    draw = ImageDraw.Draw(page)

    def write(x: float, y: float, lines: list[str], colour: str = INK, anchor: str = "la") -> None:
        for place, line in enumerate(lines):
            draw.text((x, y + place * LINE), line, colour, font, anchor=anchor)

    write(MARGIN, MARGIN, titles)
    write(MARGIN, top - GAP - LINE, [down], PALE)
    write((left + right) // 2, across_at, [across], PALE, "ma")
    for column, lines in enumerate(heads):
        write(left + column * (width + GAP) + width // 2, heads_at, lines, anchor="ma")
    for row, lines in enumerate(rows):
        y = top + sum(heights[:row]) + row * GAP
        write(MARGIN, y + height // 2 - (len(lines) - 1) * LINE / 2, lines, anchor="lm")
        for column, picture in enumerate(pictures[row]):
            page.paste(picture, (left + column * (width + GAP), y))
    return page


@lru_cache(maxsize=2)
def wider_font() -> ImageFont.FreeTypeFont:
    for name in WIDER_FONTS:
        try:
            return ImageFont.truetype(name, TEXT)
        except OSError:
            continue
    return ImageFont.load_default(TEXT)


def font_for(text: str) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(TEXT) if all(one < "\u2e80" for one in text) else wider_font()


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The text in lines, or as much of it as there is room for; broken between words where there are any."""
    lines, rest = [], "".join(one for one in text if one.isprintable()).strip()
    while rest and len(lines) < LINES:
        fits = len(rest)
        while fits > 1 and font.getlength(rest[:fits]) > width:
            fits -= 1
        if fits < len(rest):
            fits = rest.rfind(" ", 1, fits + 1) if " " in rest[1 : fits + 1] else fits
        lines.append(rest[:fits].rstrip())
        rest = rest[fits:].lstrip()
    if rest:
        last = lines[-1]
        while last and font.getlength(last + "...") > width:
            last = last[:-1]
        lines[-1] = last + "..."
    return lines or [""]
