"""Scenes of one or two coloured squares, with captions and records as a person's folder has them."""

import json
import random
from pathlib import Path

import torch

from mmdemo.data import LabelledImages
from mmdemo.datasets import METADATA
from mmdemo.images import to_images

SIDE = 32  # of a picture; a square has half of it
COLOURS = {"red": (230, 60, 60), "yellow": (230, 220, 60), "blue": (60, 80, 230)}
GROUNDS = {"black": 10, "grey": 110}
MARKS = {"dot": slice(6, 10), "none": slice(0, 0)}
PLACES = {"left": 0, "right": 16, "middle": 8}  # x; y is anywhere from 4 to 12


def draw(record: dict, chance: random.Random) -> torch.Tensor:
    picture = torch.full((3, SIDE, SIDE), GROUNDS[record["ground"]])
    for part in record["parts"]:
        square = torch.tensor(COLOURS[part["colour"]]).view(3, 1, 1).expand(3, 12, 12).clone()
        square[:, MARKS[part["mark"]], MARKS[part["mark"]]] = 0
        top, left = part["y"] + 2, part["x"] + 2
        picture[:, top : top + 12, left : left + 12] = square
    noise = torch.tensor([chance.gauss(0, 4) for _ in range(SIDE)])
    return (picture + noise).clamp(0, 255).round().to(torch.uint8)


def scenes(count: int, seed: int = 0, novel: bool = False, places: tuple[str, ...] | None = None) -> LabelledImages:
    """No red square has a dot, but in the novel ones the first has."""
    chance = random.Random(seed)
    records, captions, pixels = [], [], []
    for i in range(count):
        parts = []
        for place in places or (("middle",) if i % 4 == 3 else ("left", "right")):
            colour, mark = chance.choice(list(COLOURS)), chance.choice(list(MARKS))
            if novel and not parts:
                colour, mark = "red", "dot"
            elif (colour, mark) == ("red", "dot"):
                mark = "none"
            at = {"place": place, "x": PLACES[place], "y": chance.choice(range(4, 13))}
            parts.append(at | {"colour": colour, "mark": mark})
        record = {"ground": chance.choice(list(GROUNDS)), "parts": parts}
        records.append(record)
        captions.append((english(record), chinese(record)))
        pixels.append(draw(record, chance))
    return LabelledImages(torch.stack(pixels), torch.full((count,), -1), (), tuple(captions), tuple(records))


def english(record: dict) -> str:
    said = [
        ("" if part["place"] == "middle" else f"{part['place']}: ")
        + f"a {part['colour']} square"
        + (" with a dot" if part["mark"] == "dot" else "")
        for part in record["parts"]
    ]
    return "; ".join([*said, f"on {record['ground']}"])


def chinese(record: dict) -> str:
    places, colours = {"left": "左边：", "right": "右边：", "middle": ""}, {"red": "红", "yellow": "黄", "blue": "蓝"}
    return "；".join(places[part["place"]] + colours[part["colour"]] + "方块" for part in record["parts"])


def save(images: LabelledImages, folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = []
    for i, picture in enumerate(to_images(images.pixels)):
        picture.save(folder / f"{i:04}.png")
        row = {"file_name": f"{i:04}.png", "text": list(images.captions[i]), **images.records[i]}
        rows.append(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / METADATA).write_text("".join(rows), encoding="utf-8")
