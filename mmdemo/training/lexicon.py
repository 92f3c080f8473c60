"""Learns a Lexicon from a training split: its captions say things, and its records say what is so.

It knows no language and no list of words. Records are as `data.load` gives them: attribute -> value; a scene with parts
has a column that lists them, each with a `place` and attributes of its own.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import inf, log

from mmdemo.captions import MAX_ENTRIES, MAX_JSON, Lexicon, Pair, Words, find, is_han, is_label, split

MARK = re.compile(r"[^\w\s\u0300-\u036f'’-]+")  # what is never inside a word
LONGEST, LONGEST_HAN = 4, 6  # words of a phrase, and characters of one in Han script
PRECISION = 0.999  # of a phrase: the rest are slips in the captions
CHANCE = log(1e-12)  # of a phrase's agreement with a value being an accident; there are millions of such pairs
CHANCE_OF_PARTS = log(1e-4)  # the same among the pictures of which part of the phrase is said; these are few
MAX_VALUES = 200  # of an attribute; a column with more tells pictures apart, and does not describe them
MAX_TAGS = 2000


def learn(captions: Sequence[Sequence[str]], records: Sequence[dict]) -> Lexicon:
    """The lexicon of a training split.  captions: some for each picture.  records: one for each picture.

    A phrase names a value if every picture of which it is said has that value (in a scene, one of its parts has) and
    that is no accident, nor follows from what else the phrase names. A phrase that holds a shorter one is left out, and
    so is what cannot be stored.
    Raises ValueError if there is not one record for each picture.
    """
    if len(captions) != len(records):
        raise ValueError(f"captions of {len(captions)} pictures, but {len(records)} records; give one for each")
    truth = _Truth(records)
    texts = [[_segments(caption) for caption in told] for told in captions]
    grams = _Grams(texts)
    named = _naming(grams, truth)
    first = Counter(is_han(words[0]) for told in texts for segments in told for words in segments[:1])
    main = first.most_common(1)[0][0] if first else False

    def best_first(found: Iterable[Words]) -> tuple[str, ...]:
        ranked = sorted(found, key=lambda words: (is_han(words[-1]) != main, -grams.support(words)))
        return tuple(phrase for phrase in map(_joined, ranked) if is_label(phrase))

    phrases = {
        attribute: {value: best_first(named[attribute, value]) for value in values if (attribute, value) in named}
        for attribute, values in truth.values.items()
    }
    lookup = defaultdict(list)
    for pair, found in named.items():
        for words in found:
            lookup[words].append(pair)
    placed = _placing(texts, grams, truth, lookup)
    places = {place: best_first(placed.get(place, ())) for place in truth.places}
    tags = tuple(tag for tag in _tags(grams, lookup, main) if is_label(tag))
    whole = Lexicon(phrases, places, truth.values, tags, truth.shared, truth.parts)
    bare = replace(whole, phrases={}, places=dict.fromkeys(places, ()), tags=())
    return next((one for one in (whole, replace(whole, tags=())) if _can_be_stored(one)), bare)


def _can_be_stored(one: Lexicon) -> bool:
    try:
        return Lexicon.from_json(one.to_json()) == one
    except ValueError:
        return False


class _Truth:
    """Records, turned to what each picture's parts have. A picture without parts is one part.

    Sets of pictures are integers (see `_bits`). A literal is (attribute, value, whether a part has it or has not).
    """

    def __init__(self, records: Sequence[dict]):
        columns = dict.fromkeys(name for record in records for name in record)
        self.parts = next((name for name in columns if _lists_parts(records, name)), None)
        listed = [record.get(self.parts, []) if self.parts else [] for record in records]
        told = [[_strings(part) for part in parts] for parts in listed]
        self.where = [[part.pop("place") for part in parts] for parts in told]
        seen = defaultdict(Counter)
        for record, parts in zip(records, told, strict=True):
            for one in (_strings(record), *parts):
                for name, value in one.items():
                    seen[name][value] += 1
        kept = _few(seen)
        self.values = {
            name: tuple(value for value, _ in counts.most_common()) for name, counts in seen.items() if name in kept
        }
        of_parts = {name for parts in told for part in parts for name in part}
        self.shared = tuple(name for name in self.values if name not in of_parts) if self.parts else ()
        self.places = tuple(place for place, _ in Counter(one for places in self.where for one in places).most_common())
        self.units = [
            [{(name, value) for name, value in one.items() if name in self.values} for one in joined]
            for joined in (
                [_strings(record) | part for part in parts] or [_strings(record)]
                for record, parts in zip(records, told, strict=True)
            )
        ]
        self.holds = [set().union(*parts) for parts in self.units]
        self._slots = []  # of all pictures' first parts, of their second: pair -> pictures; None -> who has such a part
        for slot in range(max(map(len, self.units), default=0)):
            having = defaultdict(list)
            for i, parts in enumerate(self.units):
                for pair in (None, *parts[slot]) if slot < len(parts) else ():
                    having[pair].append(i)
            self._slots.append({pair: _bits(pictures, len(records)) for pair, pictures in having.items()})
        self.literals = [
            (name, value, whether) for whether in (True, False) for name in self.values for value in self.values[name]
        ]
        self.with_part = lru_cache(maxsize=5000)(self._with_part)

    def _with_part(self, *literals: tuple[str, str, bool]) -> int:
        """The pictures of which one part has all this."""
        found = 0
        for slot in self._slots:
            these = slot[None]
            for name, value, whether in literals:
                having = slot.get((name, value), 0)
                these &= having if whether else ~having
            found |= these
        return found


def _few(seen: Mapping[str, Mapping[str, int]]) -> set[str]:
    """The attributes of few values, and of those no more than a quarter of what a lexicon can hold: there are phrases
    to come."""
    kept, entries, characters = set(), 0, 0
    for name in sorted(seen, key=lambda name: len(seen[name])):
        entries += 1 + len(seen[name])
        characters += len(name) + sum(map(len, seen[name]))
        if len(seen[name]) > MAX_VALUES or entries > MAX_ENTRIES // 4 or characters > MAX_JSON // 4:
            break
        kept.add(name)
    return kept


class _Grams:
    """Every phrase that captions say, and where. None reaches across a punctuation mark."""

    def __init__(self, texts: list[list[list[Words]]]):
        self.pictures = defaultdict(list)  # segment -> pictures, as often as it is said of them
        for i, told in enumerate(texts):
            for segments in told:
                for words in segments:
                    self.pictures[words].append(i)
        self.segments = defaultdict(list)  # phrase -> segments
        for words in self.pictures:
            for phrase in set(_phrases_of(words)):
                self.segments[phrase].append(words)
        self._count = len(texts)
        self._support: dict[Words, int] = {}
        self.bits = lru_cache(maxsize=1000)(self._said_of)

    def support(self, phrase: Words) -> int:
        """How often it is said, at most once a segment."""
        if phrase not in self._support:
            self._support[phrase] = sum(len(self.pictures[words]) for words in self.segments.get(phrase, ()))
        return self._support[phrase]

    def _said_of(self, phrase: Words) -> int:
        """The pictures that it is said of, as a set."""
        return _bits((i for words in self.segments[phrase] for i in self.pictures[words]), self._count)

    def whole(self, phrase: Words) -> Words:
        """A phrase with the characters that it is never said without: in Han script a word is several of them."""
        while len(phrase) < LONGEST_HAN and all(map(is_han, phrase)):
            words = self.segments[phrase][0]
            at = next(i for i in range(len(words)) if words[i : i + len(phrase)] == phrase)
            longer = [words[at : at + len(phrase) + 1]] + ([words[at - 1 : at + len(phrase)]] if at else [])
            for one in longer:
                if len(one) > len(phrase) and all(map(is_han, one)) and self.support(one) == self.support(phrase):
                    phrase = one
                    break
            else:
                break
        return phrase


def _naming(grams: _Grams, truth: _Truth) -> dict[Pair, list[Words]]:
    """The phrases that name each value."""
    known: dict[Words, frozenset[Pair]] = {}  # what a phrase or a part of it names
    candidates = defaultdict(dict)  # value -> phrase -> whether a part of it names something else
    for phrase in sorted(grams.segments, key=lambda one: (len(one), one)):
        inherited = known.get(phrase[:-1], frozenset()) | known.get(phrase[1:], frozenset())
        new = _agreeing(phrase, inherited, grams, truth)
        known[phrase] = inherited | new
        for pair in new:
            candidates[pair][grams.whole(phrase)] = bool(inherited)
    spread = Counter()
    for words, pictures in grams.pictures.items():
        for word in words:
            spread[word] += len(pictures)
    named = {}
    for pair, phrases in candidates.items():
        ranked = sorted(
            phrases, key=lambda one: (phrases[one], -grams.support(one), len(one), sum(spread[w] for w in one), one)
        )
        kept, covered = [], set()  # "wearing a blue" is never said but of a blue shirt
        for phrase in ranked:
            apart = sum(len(grams.pictures[words]) for words in grams.segments[phrase] if words not in covered)
            if apart > 0.1 * grams.support(phrase):
                kept.append(phrase)
                covered.update(grams.segments[phrase])
        named[pair] = kept
    return named


def _agreeing(phrase: Words, inherited: frozenset[Pair], grams: _Grams, truth: _Truth) -> frozenset[Pair]:
    """The values that a phrase names by itself, beyond what parts of it name."""
    segments = grams.segments[phrase]
    sample = [grams.pictures[words][0] for words in segments[:: len(segments) // 30 + 1]]
    counts = Counter(pair for i in sample for pair in truth.holds[i])
    likely = [pair for pair, count in counts.items() if count >= 0.9 * len(sample) and pair not in inherited]
    if not likely:
        return frozenset()
    said = grams.bits(phrase)
    everywhere = truth.with_part()

    def holds(*literals: tuple[str, str, bool]) -> bool:
        """Whether it holds wherever the phrase is said, more often than by accident."""
        having = truth.with_part(*literals)
        return _share(having, said) >= PRECISION and _accident(having, said, everywhere) < CHANCE

    found = [pair for pair in likely if holds((*pair, True))]
    if not found:
        return frozenset()
    # The words together must say more than some of them do: "with glasses and" is rarely said where there is a hat.
    parts = [grams.bits(part) for part in {phrase[:-1], phrase[1:]} if part]
    found = [
        pair for pair in found
        if all(_accident(truth.with_part((*pair, True)), said, part) < CHANCE_OF_PARTS for part in parts)
    ]  # fmt: skip
    # Where every blue ring is small, "blue ring" does not say that it is small; where all who wear a hat have long
    # hair, "hat" does not say that it is long: that follows from the rest.
    rest = [one for one in truth.literals if (one[2] and one[:2] in inherited) or holds(one)] if found else []

    def follows(pair: Pair) -> bool:
        others = truth.with_part(*(one for one in rest if one[0] != pair[0]))
        having = truth.with_part((*pair, True))
        return _share(having, others) >= PRECISION > _share(others, having)

    return frozenset(pair for pair in found if not follows(pair))


def _share(these: int, among: int) -> float:
    return (these & among).bit_count() / max(1, among.bit_count())


def _accident(these: int, said: int, among: int) -> float:
    """The logarithm of the chance that as many as a phrase is said of, taken among some pictures, are all of these."""
    share = _share(these, among)
    return said.bit_count() * log(share) if share else -inf


def _placing(
    texts: list[list[list[Words]]], grams: _Grams, truth: _Truth, lookup: Mapping[Words, list[Pair]]
) -> dict[str, list[Words]]:
    """The phrases that say a place: the next value named, where one part alone has it, is of the part there."""
    if not truth.parts:
        return {}
    cut = {words: _cut(words, lookup) for words in grams.pictures}
    gaps = Counter()  # (what is said between two values, the place of the part that the second is of)
    for told, units, where in zip(texts, truth.units, truth.where, strict=True):
        if len(units) < 2:
            continue
        for segments in told:
            gap: tuple[Words, ...] = ()
            for words in segments:
                before, rest = cut[words]
                for run, pair in before:
                    owners = [place for place, unit in zip(where, units, strict=True) if pair in unit]
                    if len(owners) == 1:
                        gaps[(*gap, run), owners[0]] += 1
                    gap = ()
                gap += (rest,)
    usual = Counter()
    for (_, place), count in gaps.items():
        usual[place] += count

    def certain(counts: dict[Words, Counter], precision: float) -> dict[Words, str]:
        found = {}
        for phrase, by_place in counts.items():
            ((place, count),) = by_place.most_common(1)
            share = usual[place] / usual.total()
            if count >= precision * by_place.total() and count * log(share) < CHANCE:
                found[phrase] = place
        parts = {phrase: (found.get(phrase[:-1]), found.get(phrase[1:])) for phrase in found}
        return {phrase: place for phrase, place in found.items() if place not in parts[phrase]}

    counts = defaultdict(Counter)
    for (gap, place), count in gaps.items():
        for phrase in {phrase for run in gap for phrase in _phrases_of(run)}:
            counts[phrase][place] += count
    # "left: a person; right: red hair": what counts is the last place said.
    likely = certain(counts, 0.75)
    last = defaultdict(Counter)
    for (gap, place), count in gaps.items():
        said = [phrase for run in gap for phrase in _in_order(run) if phrase in likely]
        if said:
            last[said[-1]][place] += count
    found = defaultdict(set)
    for phrase, place in certain(last, PRECISION).items():
        found[place].add(grams.whole(phrase))
    return {place: sorted(phrases) for place, phrases in found.items()}


def _tags(grams: _Grams, lookup: Mapping[Words, list[Pair]], main: bool) -> tuple[str, ...]:
    """For one value the shortest piece of a caption that names it alone; for several, "long grey hair" and its like."""

    def ranked(phrases: Iterable[Words], whole: dict[Pair, Words]) -> dict[frozenset[Pair], tuple[int, int, Words]]:
        best: dict[frozenset[Pair], tuple[int, int, Words]] = {}
        for words in phrases:
            names = frozenset(pair for _, _, pair in find(words, lookup))
            one_each = names and len({attribute for attribute, _ in names}) == len(names)
            if one_each and all(set(whole.get(pair, ())) <= set(words) for pair in names):
                rank = (len(words), -grams.support(words), words)
                best[names] = min(best.get(names, rank), rank)
        return best

    short = [words for words in grams.pictures if len(words) <= LONGEST and is_han(words[0]) == main]
    alone = {names: rank for names, rank in ranked(short, {}).items() if len(names) == 1}
    whole = {pair: words for names, (*_, words) in alone.items() for pair in names}
    telling = {word for words in (*lookup, *whole.values()) for word in words}
    joined = [words for words in grams.segments if is_han(words[0]) == main and telling.issuperset(words)]
    several = {names: rank for names, rank in ranked(joined, whole).items() if len(names) > 1}
    tags = sorted((-len(names), *rank) for names, rank in (several | alone).items())
    kept = set(sorted(tags, key=lambda tag: (tag[0] < -1, tag[2]))[:MAX_TAGS])
    return tuple(_joined(tag[-1]) for tag in tags if tag in kept)


def _cut(words: Words, lookup: Mapping[Words, list[Pair]]) -> tuple[list[tuple[Words, Pair]], Words]:
    """The values that a segment names, each with the words between it and the one before, and the words after all."""
    cut, at = [], 0
    for start, end, pair in find(words, lookup):
        cut.append((words[at:start], pair))
        at = max(at, end)
    return cut, words[at:]


def _in_order(words: Words) -> list[Words]:
    """Its phrases by where they end, of those that end together the shortest last."""
    return [words[i:j] for j in range(1, len(words) + 1) for i in range(max(0, j - LONGEST_HAN), j)]


def _bits(places: Iterable[int], count: int) -> int:
    """A set as an integer, by way of its digits: bytes are set much faster than bits."""
    digits = bytearray(b"0" * (count + 1))
    for i in places:
        digits[i] = 49  # "1"
    return int(digits, 2)


def _segments(caption: str) -> list[Words]:
    """What stands between punctuation marks."""
    return [words for piece in MARK.split(caption) for words in _without_marks(piece)]


@lru_cache(maxsize=100_000)  # pieces of captions recur
def _without_marks(piece: str) -> list[Words]:
    segments, words = [], []
    for word in [*split(piece), "."]:
        if word[0].isalnum():
            words.append(word)
        elif words:
            segments.append(tuple(words))
            words = []
    return segments


def _phrases_of(words: Words) -> list[Words]:
    return [
        words[i : i + n]
        for n in range(1, min(LONGEST_HAN, len(words)) + 1)
        for i in range(len(words) - n + 1)
        if n <= LONGEST or all(map(is_han, words[i : i + n]))
    ]


def _joined(words: Words) -> str:
    spaced = [words[0]]
    for before, word in zip(words, words[1:], strict=False):
        spaced += [word] if is_han(before) or is_han(word) else [" ", word]
    return "".join(spaced)


def _strings(record: dict) -> dict[str, str]:
    return {name: value for name, value in record.items() if is_label(name) and is_label(value)}


def _lists_parts(records: Sequence[dict], name: str) -> bool:
    """Whether a column lists parts, each with a place, wherever it is; of places there are few."""
    if not is_label(name) or not any(record.get(name) for record in records):
        return False
    listed = [record.get(name, []) for record in records]
    if not all(isinstance(parts, list) for parts in listed):
        return False
    places = [part.get("place") if isinstance(part, dict) else None for parts in listed for part in parts]
    return all(map(is_label, places)) and len(set(places)) <= MAX_VALUES
