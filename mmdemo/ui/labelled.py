"""Pictures in a table with words around them, as one picture. It knows no model and no page."""

from PIL import Image, ImageDraw, ImageFont

from mmdemo import images

SIDE = 128  # pixels, about: a picture's own are enlarged a whole number of times
GAP, MARGIN, TEXT = 8, 24, 18
LINE = 28  # from one line of words to the next
WIDEST = 240  # pixels for the words left of a row
INK, PALE = "#0f172a", "#64748b"


def table(
    pictures: list[list[Image.Image]],  # row by row, all of one size
    columns: list[str],
    rows: list[str],  # one a row; "" leaves a row without words
    title: str,
    across: str = "",  # what the columns are
    down: str = "",  # what the rows are
) -> Image.Image:
    """The pictures, with a title, what the columns and the rows are, and the value of each."""
    font = ImageFont.load_default(TEXT)
    pictures = [[images.enlarge(one, SIDE) for one in row] for row in pictures]
    width, height = pictures[0][0].size
    left = min(WIDEST, max(map(font.getlength, (*rows, down))))
    left = MARGIN + (round(left) + 2 * GAP if left else 0)
    top = MARGIN + LINE * (3 if across or down else 2) + GAP
    right = left + len(columns) * (width + GAP) - GAP
    wide = max(right, MARGIN + round(font.getlength(title)))
    page = Image.new("RGB", (wide + MARGIN, top + len(rows) * (height + GAP) - GAP + MARGIN), "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), title, INK, font)
    draw.text((MARGIN, top - GAP - LINE), down, PALE, font)
    draw.text(((left + right) // 2, MARGIN + LINE), across, PALE, font, anchor="ma")
    for column, text in enumerate(columns):
        x = left + column * (width + GAP)
        draw.text((x + width // 2, top - GAP - LINE), _fitted(text, font, width), INK, font, anchor="ma")
    for row, text in enumerate(rows):
        y = top + row * (height + GAP)
        draw.text((MARGIN, y + height // 2), _fitted(text, font, WIDEST), INK, font, anchor="lm")
        for column, picture in enumerate(pictures[row]):
            page.paste(picture, (left + column * (width + GAP), y))
    return page


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of it as there is room for."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
