"""What was measured of a pack, in words and tables: the middle of its card.

It knows the names of the numbers that `evaluate` gives; card.py, where they are kept.
"""

from html import escape

from mmdemo.arguments import SETTINGS, STORED, Recipe

CAPTIONS = {"test": "test captions", "novel": "captions of new combinations"}  # by what pictures are drawn


def text(name: str, numbers: dict, training: dict, pictures: set[str]) -> str:
    """All of it.  name: the pack's; numbers: as `evaluate` returns them; training: as provenance.read_training does;
    pictures: the files there are to be shown."""
    return f"""## Measured
By `{_evaluation(name, numbers)}{where(training)}`
on {numbers["test_images"]} test pictures, in {numbers["minutes"]} minutes.

{_table(numbers)}

{_reading(numbers)}
{_by_attribute(numbers)}{_classes_read(name, numbers, training)}{_segments(numbers)}\
{_comparison(numbers) if "jpeg_psnr" in numbers else ""}\
{_teaching(name, numbers, training) if "synthetic" in numbers else ""}\
{_gallery(numbers, pictures)}{_student(name, numbers, training, pictures)}\
{_restored(name, numbers, training, pictures)}"""


def _evaluation(name: str, numbers: dict) -> str:
    """The command that measured them, with every setting written out."""
    command = f"python -m mmdemo evaluate --pack {name}"
    if "generated" not in numbers:
        return command
    options = "".join(option(one, value) for one, value in _settings(numbers).items() if SETTINGS[one].caption(value))
    described = f" --described {numbers['described_right_of']}" if "described_right" in numbers else ""
    described += " --segments DIR" if "segments" in numbers else ""
    return f"{command} --samples {numbers['generated']}{described}{options}"


def _settings(numbers: dict) -> dict:
    """How the pictures were drawn that were measured, as a Recipe's fields."""
    return {setting: numbers[key] for setting, key in STORED.items() if key in numbers}


def option(name: str, value) -> str:
    if value is True:
        return f" --{name.replace('_', '-')}"
    values = value if isinstance(value, (list, tuple)) else [value]
    words = [f"{one:g}" if isinstance(one, float) else str(one) for one in values]
    return f" --{name.replace('_', '-')} {' '.join(words)}"


def where(training: dict) -> str:
    """The option that says where a folder of pictures is; named data sets are downloaded."""
    dataset = training["vqvae"]["dataset"]
    return f" --data-dir {dataset}" if dataset.endswith("/") else ""


def _table(numbers: dict) -> str:
    rows = [
        ("PSNR", f"{numbers['psnr']:.2f} dB"),
        ("PSNR of the mean squared error over all pictures", f"{numbers['psnr_pooled']:.2f} dB"),
        ("SSIM", f"{numbers['ssim']:.4f}"),
        ("detail", f"{numbers['detail']:.3f}"),
        ("bits per pixel, entropy-coded", f"{numbers['bits_per_pixel']:.3f}"),
        (
            "codes used by test pictures",
            f"{numbers['codes_used']} of {numbers['codes']} ({numbers['codes_used'] / numbers['codes']:.1%})",
        ),
        ("perplexity", f"{numbers['perplexity']:.0f}"),
    ]
    if "accuracy_test" in numbers:
        rows += [
            ("test pictures read right", f"{numbers['accuracy_test']:.2%}"),
            ("reconstructions read right", f"{numbers['accuracy_reconstructed']:.2%}"),
        ]
    if "frechet_train_test" in numbers:
        rows += [
            ("Fréchet distance, training – test", f"{numbers['frechet_train_test']:.3f}"),
            ("Fréchet distance, reconstructions – test", f"{numbers['frechet_reconstructed_test']:.3f}"),
        ]
    how = Recipe(**_settings(numbers)).words(without=["seed"]) if "generated" in numbers else ""
    if "accuracy_generated" in numbers:
        rows.append(
            (f"generated ({how}) read as asked, of {numbers['accuracy_generated_of']}",
             f"{numbers['accuracy_generated']:.2%}")
        )  # fmt: skip
    for split, words in CAPTIONS.items():
        if f"named_right_{split}" in numbers:
            of = f"of {numbers[f'named_right_{split}_of']} values named by {words}"
            rows.append((f"generated ({how}) as asked, {of}", f"{numbers[f'named_right_{split}']:.2%}"))
        if f"swaps_{split}" in numbers:
            of = f"of {numbers[f'swaps_{split}_of']} that differ between parts, by {words}"
            rows.append((f"swapped, {of}", f"{numbers[f'swaps_{split}']:.2%}"))
    if "frechet_ratio" in numbers:
        rows += [
            (f"Fréchet distance, {numbers['generated']} generated – test", f"{numbers['frechet_generated_test']:.3f}"),
            ("Fréchet ratio", f"{numbers['frechet_ratio']:.2f}"),
        ]
    if "variety" in numbers:
        rows.append((f"variety, of {numbers['variety_of']} captions", f"{numbers['variety']:.2f}"))
    if "copies" in numbers:
        rows.append(("copies", f"{numbers['copies']:.1%}"))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _by_attribute(numbers: dict) -> str:
    """What is read of pictures, attribute by attribute, and of drawn ones also script by script."""
    columns = {
        "test pictures": numbers.get("read_test"),
        "reconstructions": numbers.get("read_reconstructed"),
        **{f"by {words}": _named(numbers, split) for split, words in CAPTIONS.items()},
        f"described, {numbers.get('described_right_of')} pictures": numbers.get("described_right"),
    }
    columns = {name: column for name, column in columns.items() if column}
    rows = dict.fromkeys(key for column in columns.values() for key in column)
    if not rows:
        return ""

    def line(*cells: str) -> str:
        return f"| {' | '.join(cells)} |"

    shares = [
        line(row, *(f"{column[row]:.2%}" if row in column else "" for column in columns.values())) for row in rows
    ]
    return "\n" + "\n".join([line("read right", *columns), "|---" * (1 + len(columns)) + "|", *shares]) + "\n"


def _named(numbers: dict, split: str) -> dict[str, float]:
    scripts = numbers.get(f"named_right_{split}_by_script", {})
    return numbers.get(f"named_right_{split}_by_attribute", {}) | {
        f"captions in {script.capitalize()} script": share for script, share in scripts.items()
    }


def _reading(numbers: dict) -> str:
    """How to read the table."""
    text = """PSNR and SSIM are means over pictures, without padding. Detail is the energy of the gradients of the
reconstructions ÷ that of the originals: 1 is as sharp, less is blurred. Bits per pixel are what the token ids take with
an arithmetic coder whose table is the training split's uses of every code."""
    if "accuracy_test" in numbers:
        text += f"""

Pictures are read by a small classifier that `evaluate` trains once on the training split. The Fréchet distance is taken
between the {numbers["features"]} numbers of its last hidden layer"""
        ratio = (
            "The Fréchet ratio is\ndistance(generated, test) ÷ distance(training, test); 1 is as close as real data. "
            "The classifier is this\ndata set's own, so ratios of different packs cannot be compared."
        )
        text += f". {ratio}" if "frechet_ratio" in numbers else "."
    if "read_test" in numbers:
        text += f"""

Attributes are read off pictures by a small reader that `evaluate` trains once on the training split's records; of a
scene, each part from around its place. The Fréchet distance is taken between its {numbers["features"]} features."""
    if "named_right_test" in numbers:
        text += """ The
Fréchet ratio is distance(generated, test) ÷ distance(training, test); 1 is as close as real data. It can be under 1:
pictures drawn by the test captions share with the test pictures what these say, and training pictures do not. The
reader is this data set's own, so ratios of different packs cannot be compared.

As asked is a value that a caption names and the reader reads, of the part of which it is said."""
    if "described_right" in numbers:
        text += """ Described is what
the pack itself says of test pictures (`describe`)."""
    if "swaps_test" in numbers:
        text += """ Swapped is one of an attribute that has
different values named of two parts, if it is missing at its own and read at the other."""
    if "named_right_novel" in numbers:
        text += """

Captions of new combinations are those of the data set's split `novel`, whose combinations no training picture has."""
    if "variety" in numbers:
        text += """

Variety is how much pictures of one caption differ (RMS, of pairs) ÷ how much training pictures do that agree in all
that it names: 1 is as much."""
    if "copies" in numbers:
        text += """

Copies are generated pictures nearer (RMS) to a training picture than 95 % of the test pictures' reconstructions are:
5 % where they are as new as test pictures."""
    return text


def _classes_read(name: str, numbers: dict, training: dict) -> str:
    """What the pack itself knows of classes, beside what was trained to read them."""
    if "classified_right" not in numbers:
        return ""
    count = numbers["classified_right_of"]
    of = f"of {count}, {numbers['classified_seconds']:.2f} s each"
    taken = f", in {numbers['classified_minutes']} minutes" if "classified_minutes" in numbers else ""
    return f"""
### Classes
By `python -m mmdemo evaluate --pack {name} --classify {count}{where(training)}`{taken}.

| test pictures read right | |
|---|---|
| by the classifier, which was trained to read pictures | {numbers["accuracy_test"]:.2%} |
| **by the transformer** (`classify`), {of} | {numbers["classified_right"]:.2%} |
| by a logistic regression on which token is where | {numbers["accuracy_tokens"]:.2%} |

`classify` names the class under which the transformer, which was trained to draw, denoises a picture best
([2303.16203](https://arxiv.org/abs/2303.16203)). The logistic regression is what the tokens alone give away.
"""


def _segments(numbers: dict) -> str:
    """Where the pack finds what its words say."""
    if "segments" not in numbers:
        return ""

    def cells(found: dict) -> str:
        return " | ".join(f"{found[how]:.2f}" if how in found else "" for how in ("evidence", "named", "learned"))

    rows = "\n".join(f"| {name}, {found['of']} | {cells(found)} |" for name, found in numbers["segments"].items())
    return f"""
### Masks
| IoU, and of how many pictures | **evidence** | colour, by its name | colour, learned from masks |
|---|---|---|---|
{rows}

Evidence is where a picture is denoised better with the word that is true of it than with the attribute's other words
(the maps of `describe`). It has never seen a mask. Next to it a threshold on colour alone: pixels near the colour that
the word names, or near what true masks of other pictures hold. Each threshold is chosen on half of the pictures, and
the IoU is that of the others.
"""


def _comparison(numbers: dict) -> str:
    """The codec next to JPEG."""

    def row(name: str, which: str) -> str:
        bits, psnr, ssim = (numbers[f"{which}{number}"] for number in ("bits_per_pixel", "psnr", "ssim"))
        return f"| {name} | {bits:.3f} | {psnr:.2f} dB | {ssim:.4f} |"

    def settings(which: str) -> str:
        return f"quality {numbers[f'{which}quality']}, {numbers[f'{which}subsampling']}"

    return f"""
### Next to JPEG
| on the same test pictures | bits per pixel | PSNR | SSIM |
|---|---|---|---|
{row("**tokens**", "")}
{row(f"JPEG, its scan alone ({settings('jpeg_')})", "jpeg_")}
{row(f"JPEG, the whole file ({settings('jpeg_file_')})", "jpeg_file_")}

JPEG (Pillow, `optimize=True`, the better chroma subsampling) has one quality for all pictures: the lowest that spends
at least the tokens' bits. In the file of so small a picture most bytes are headers and tables, so it is counted twice:
the entropy-coded scan alone, as if those were free, and the whole file, which even at quality 1 may be larger than the
tokens. Not counted: the tokens need the pack's decoder, and JPEG's is everywhere.
"""


def _teaching(name: str, numbers: dict, training: dict) -> str:
    """What a classifier learns of drawn pictures."""
    alone, settings = numbers["synthetic"], numbers["synthetic_settings"]
    recipe = Recipe(**{setting: settings[key] for setting, key in STORED.items()})
    tried = {name: share for name, share in numbers["synthetic_tried"].items() if name != "pictures"}
    options = f" --count {alone['count']}"
    if not tried:
        options += "".join(option(one, getattr(recipe, one)) for one in STORED)
    chosen = ""
    if tried:
        shares = "; ".join(f"{words}: {share:.2%}" for words, share in tried.items())
        chosen = f""" That is the cheapest of those within a
standard error of the best, by what a few drawn pictures of other seeds teach about
{numbers["synthetic_tried"]["pictures"]:,} pictures of the training split: {shares}."""
    rows = [f"| no real ones | | {alone['accuracy']:.2%} |"]
    for count, share in numbers["synthetic_real"].items():
        rows.append(f"| {int(count):,} real ones | {share:.2%} | {numbers['synthetic_both'][count]:.2%} |")
    return f"""
### To train on
By `python -m mmdemo evaluate --pack {name} --synthetic{options}{where(training)}`, in {alone["minutes"]} minutes.

| test pictures read right by a classifier that learnt | real pictures alone | with {alone["count"]:,} drawn ones |
|---|---|---|
{chr(10).join(rows)}

Drawn by {recipe.words(without=["seed"])}.{chosen}
With a rotated, scaled, shifted and noised variant of each (`--augment`), drawn pictures alone teach
{alone["accuracy_augmented"]:.2%}. Every classifier is of one kind and is trained for as many steps.

**The generator saw all the real training pictures**, so what drawn ones add to a few of them is not had from these few:
it shows what a pack hands on of its data to somebody who has the pack but not the data.
"""


def _student(name: str, numbers: dict, training: dict, pictures: set[str]) -> str:
    """What the student draws, beside the pack itself."""
    if "student" not in numbers:
        return ""

    def cells(row: dict) -> str:
        ratio = ""
        if "frechet_generated_test" in row:
            ratio = f"{row['frechet_generated_test'] / numbers['frechet_train_test']:.2f}"
        right = next((f"{row[key]:.2%}" for key in ("accuracy_generated", "named_right_test") if key in row), "")
        return f"{ratio} | {right} | {row.get('times_as_fast', 1):g}"

    how = Recipe(**_settings(numbers)).words(without=["seed"])
    rows = [f"| the pack itself, {how} | {cells(numbers)} |"]
    rows += [
        f"| **its student**, {row['steps']} step{'s' * (row['steps'] > 1)} | {cells(row)} |"
        for row in numbers["student"]
    ]
    text = f"""
### In few steps
By `python -m mmdemo evaluate --pack {name} --student{where(training)}`, in {numbers["student_minutes"]} minutes.

| drawn by | Fréchet ratio | as asked | times as fast |
|---|---|---|---|
{chr(10).join(rows)}

The student (the sampler `fast`) has learned where the pack's own drawings go, with their guidance, and jumps there.
"""
    if "student.png" in pictures:
        text += "\nThe same seeds, drawn by every line of the table.\n\n![Drawn in few steps](student.png)\n"
    return text


def _restored(name: str, numbers: dict, training: dict, pictures: set[str]) -> str:
    """How well it restores, beside other means."""
    if "restored" not in numbers:
        return ""
    reads = any("read" in row for row in numbers["restored"])
    heads = ["damage", "mended by", "PSNR", "SSIM", *["read right"] * reads]
    lines = [heads, ["---"] * len(heads)]
    for row in numbers["restored"]:
        read = [f"{row['read']:.1%}"] if reads else []
        lines.append([row["damage"], row["way"], f"{row['psnr']:.2f} dB", f"{row['ssim']:.4f}", *read])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    of = numbers["restored_of"]
    text = f"""
### Restored
By `python -m mmdemo evaluate --pack {name} --restore {of}{where(training)}`,
on as many test pictures, in {numbers["restored_minutes"]} minutes. Restored is by this pack, one candidate a picture,
with its own settings, and without a label unless one is said to be given. Noise is normal, of that standard deviation
on pixels from 0 to 1, and cut off at black and white; how much there is, is known unless it is estimated. Beside it:
OpenCV's inpainting (Telea, radius 3), Pillow's Lanczos, and OpenCV's non-local means of the strength h that is best on
training pictures.

{table}
"""
    if "restored.png" in pictures:
        text += "\nThe pictures, and below them every line of the table.\n\n![Pictures restored](restored.png)\n"
    return text


def _gallery(numbers: dict, pictures: set[str]) -> str:
    text = ""
    if "comparison.png" in pictures:
        third = " and, below them, JPEG at the same bits (its scan alone)" if "jpeg_psnr" in numbers else ""
        words = "Test pictures spread evenly over the split: above the originals, then what their tokens decode to"
        text += f"\n{words}{third}.\n\n![Originals above their reconstructions](comparison.png)\n"
    if "samples.png" in pictures:
        of, captions = "caption" if "captions" in numbers else "class", numbers.get("captions", ())
        words = f"Generated, a row for each {of}: the first seeds of this evaluation, not a choice"
        text += f"\n{words}.\n\n![Generated pictures, a row for each {of}](samples.png)\n"
        if captions:
            lines = (f"{row}. {escape(' '.join(caption.split()))}" for row, caption in enumerate(captions, 1))
            text += "\n" + "\n".join(lines) + "\n"
    return text
