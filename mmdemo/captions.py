from dataclasses import dataclass, field


@dataclass(frozen=True)
class Lexicon:
    phrases: dict = field(default_factory=dict)
    places: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    parts: str | None = None

    def to_json(self):
        return {}

    @classmethod
    def from_json(cls, x):
        return cls()


def learn(captions, records):
    return Lexicon()
