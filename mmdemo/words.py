"""What a pack can read: captions -> a tokenizer, and a prompt -> token ids. It knows text; not models, and not torch.

The tokenizer is a byte-pair encoding (Sennrich et al., arXiv:1508.07909) of the words of the captions it was trained
on. A Han character is a word of its own, so that colours and things combine freely.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category

from mmdemo.captions import EXAMPLES, MAX_LENGTH, Lexicon, is_han
from mmdemo.errors import DataError, PackError
from mmdemo.kinds import shortened, whole

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, UNKNOWN, START = "[PAD]", "[UNK]", "[START]"  # their ids are 0, 1 and 2
PAD_ID, START_ID = 0, 2
VOCABULARY = 4096  # tokens at most
LENGTH = 64  # tokens read of a text, with START
MAX_FILE = 4_000_000  # bytes of a pack's tokenizer, or of its words
# These say nothing of a picture by themselves: nobody needs to be told that one was never seen.
SILENT = frozenset(
    "a an the of and with in on at is are has who his her wears wearing 的 了 着 和 与 有 是 在 要 穿".split()
)
# Captions say what is there. Where none of them has such a word it is left out, and what was not wanted is drawn.
NEGATING = frozenset("no not without never 没 不 无".split())


@dataclass(frozen=True)
class Word:
    """A word of a prompt.  start, end: its place among the characters; ids: what it is read as, () = never seen."""

    text: str
    start: int
    end: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Words:
    """A pack's tokenizer, the words it has seen, what they say of pictures, and how many tokens are read of a text."""

    tokenizer: Tokenizer
    known: frozenset[str]
    lexicon: Lexicon
    length: int = LENGTH

    @classmethod
    def learn(cls, captions: Sequence[Sequence[str]], lexicon: Lexicon, length: int = LENGTH) -> Words:
        """From the captions of a training split, some for each picture, and what was learned of them.

        A word of more than MAX_LENGTH characters is none. Raises DataError for more words than `load` would read.
        """
        from tokenizers import Tokenizer, models, trainers

        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
        tokenizer.normalizer, tokenizer.pre_tokenizer = _splitting()
        texts = [caption for some in captions for caption in some]
        special = [PAD, UNKNOWN, START]
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, show_progress=False, max_token_length=MAX_LENGTH
        )
        tokenizer.train_from_iterator(texts, trainer)
        words = cls(tokenizer, frozenset(), lexicon, length)
        split = {one for text in set(texts) for one, _ in words._split(text)}
        words = replace(words, known=frozenset(one for one in split if len(one) <= MAX_LENGTH))
        for stored in words._files().values():
            if len(stored.encode()) > MAX_FILE:
                raise DataError(
                    f"the captions have {len(split)} different words, too many to be kept with a pack; "
                    f"write them in fewer words"
                )
        return words

    @classmethod
    def load(cls, folder: Path) -> Words:
        """From a pack's tokenizer/.  Raises PackError where it is missing or malformed."""
        from tokenizers import Tokenizer

        for name in ("tokenizer.json", "words.json"):
            file = folder / name
            if not file.is_file():
                raise PackError(f"tokenizer/{name} is missing")
            if file.stat().st_size > MAX_FILE:
                raise PackError(f"tokenizer/{name} has {file.stat().st_size} bytes; at most {MAX_FILE} are read")
        try:
            stored = json.loads((folder / "words.json").read_text(encoding="utf-8"))
            if not isinstance(stored["words"], list) or not all(isinstance(one, str) for one in stored["words"]):
                raise ValueError("words in words.json is no list of texts")
            known = frozenset(stored["words"])
            lexicon = Lexicon.from_json(stored["lexicon"])
            length = whole("length", stored["length"], 1, 512)
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exceptions
            reason = " ".join(str(error).split())[:200]
            raise PackError(f"tokenizer/ cannot be read ({type(error).__name__}: {reason})") from error
        if tokenizer.token_to_id(PAD) != PAD_ID or tokenizer.token_to_id(START) != START_ID:
            raise PackError(f"tokenizer/ does not begin with {PAD}, {UNKNOWN} and {START}")
        if tokenizer.normalizer is None or tokenizer.pre_tokenizer is None:
            raise PackError("tokenizer/tokenizer.json has no normalizer or no pre_tokenizer to split a text by")
        ids = tokenizer.get_vocab().values()
        if max(ids) >= len(ids):
            raise PackError(f"tokenizer/tokenizer.json has {len(ids)} tokens, but one of them has the id {max(ids)}")
        return cls(tokenizer, known, lexicon, length)

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for name, stored in self._files().items():
            (folder / name).write_text(stored, encoding="utf-8")

    def _files(self) -> dict[str, str]:
        stored = {"length": self.length, "words": sorted(self.known), "lexicon": self.lexicon.to_json()}
        return {
            "tokenizer.json": self.tokenizer.to_str(pretty=True),
            "words.json": json.dumps(stored, ensure_ascii=False) + "\n",
        }

    @cached_property
    def size(self) -> int:
        """Tokens there are."""
        return self.tokenizer.get_vocab_size()

    def words(self, prompt: str) -> list[Word]:
        """The words of a prompt, in order; punctuation that was never seen is left out."""
        split = self._split(prompt)
        found = []
        for text, (start, end) in split:
            if text in self.known:
                ids = tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)
                found.append(Word(prompt[start:end], start, end, ids))
            elif any(category(character)[0] in "LNS" for character in text):  # a letter, a number, a symbol
                found.append(Word(prompt[start:end], start, end, ()))
        return found

    def encode(self, prompt: str, without: int | None = None) -> list[int]:
        """At most `length` token ids, the first of them START; words never seen are passed over.  without: the place of
        a word to leave out."""
        kept = [word for place, word in enumerate(self.words(prompt)) if place != without]
        return [START_ID, *(id for word in kept for id in word.ids)][: self.length]

    def unknown(self, prompt: str) -> list[str]:
        """The words of a prompt that no caption had, but for SILENT ones, each once; Han ones in a row are one."""
        spans: list[list[int]] = []
        for word in self.words(prompt):
            if word.ids or word.text.lower() in SILENT:
                continue
            if spans and spans[-1][1] == word.start and is_han(word.text) and is_han(prompt[word.start - 1]):
                spans[-1][1] = word.end
            else:
                spans.append([word.start, word.end])
        return list(dict.fromkeys(prompt[start:end] for start, end in spans))

    def negating(self, prompt: str) -> list[str]:
        """The words of a prompt that no caption had and that should negate the known word after them, each once."""
        telling = [word for word in self.words(prompt) if word.text.lower() not in SILENT]
        pairs = zip(telling, telling[1:], strict=False)
        found = [one.text for one, after in pairs if after.ids and not one.ids and one.text.lower() in NEGATING]
        return list(dict.fromkeys(found))

    def notice(self, prompts: Sequence[str]) -> str:
        """One sentence on what of prompts is not read: the words that no caption had, and what there is instead or what
        comes of their absence; or what is too long. "" = all is read."""
        unknown, negating = (
            list(dict.fromkeys(word for one in prompts for word in find(one))) for find in (self.unknown, self.negating)
        )
        if not unknown:
            most = self.length - 1  # without START
            long = any(sum(len(word.ids) for word in self.words(one)) > most for one in prompts)
            return f"a text is longer than this pack reads: its first {most} words count" if long else ""
        verbs = ("was", "is") if len(unknown) == 1 else ("were", "are")
        left_out = "{} {} never seen and {} left out".format(_listed(unknown), *verbs)
        if negating:
            instead = "leave it out, and name it in the negative prompt"
            return f"{left_out}; what follows {_listed(negating)} is drawn: {instead}"
        return f"{left_out}; this pack knows {', '.join(self._examples(''.join(filter(self.unknown, prompts))))}, …"

    def _examples(self, prompt: str) -> list[str]:
        """What can be asked for, in the script of a prompt if captions use it."""
        han = any(map(is_han, prompt))
        plain = sorted(word for word in self.known - SILENT if word.isalnum())
        return self.lexicon.examples(han) or self.lexicon.examples(not han) or plain[:EXAMPLES]

    def _split(self, text: str) -> list[tuple[str, tuple[int, int]]]:
        """Normalized words, and where each stands in the text."""
        from tokenizers import PreTokenizedString

        normalizer, splitter = self.tokenizer.normalizer, self.tokenizer.pre_tokenizer
        parts = PreTokenizedString(text)
        parts.normalize(lambda part: normalizer.normalize(part))  # a builtin's method is not taken for a function
        splitter.pre_tokenize(parts)
        return [(word, place) for word, place, _ in parts.get_splits("original", "char")]


def _listed(words: list[str]) -> str:
    return ", ".join(f"“{shortened(word, 20)}”" for word in words[:3]) + (", …" if len(words) > 3 else "")


def _splitting():
    """How text becomes words: alike letters made one, lower case, a Han character alone, punctuation apart."""
    # Not `captions.split`: there "t-shirt" is one word, as phrases are made of whole ones. Here "red-haired" is to be
    # read by its parts, and a pack keeps its splitting in tokenizer.json.
    from tokenizers import Regex, normalizers, pre_tokenizers

    han = pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated")
    alike = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    return alike, pre_tokenizers.Sequence([han, pre_tokenizers.Whitespace()])
