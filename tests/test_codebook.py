"""The codebook's learning rule: moving averages towards the data, and dead codes revived."""

import torch

from mmdemo.training.codebook import DEAD, CodebookEMA


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def is_one_of(row: torch.Tensor, latents: torch.Tensor) -> bool:
    return bool((latents == row).all(1).any())


def nearest(latents, codes):
    return torch.cdist(latents, codes).argmin(1)


def clusters(count: int = 4, each: int = 50, d: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents in clearly separate heaps, and the heap each belongs to."""
    middles = 10 * torch.eye(count, d)
    ids = torch.arange(count).repeat(each)
    return middles[ids] + torch.randn(len(ids), d, generator=rng(7)), ids


def test_codes_move_to_the_mean_of_their_latents():
    latents, ids = clusters(count=3)
    book = CodebookEMA(torch.zeros(3, 3), decay=0.9)
    book.initialize(latents, rng())
    for _ in range(200):
        book.update(latents, ids, rng())
    means = torch.stack([latents[ids == k].mean(0) for k in range(3)])
    assert torch.allclose(book.codes, means, atol=1e-4)
    assert torch.allclose(book.N, torch.full((3,), 50.0), rtol=1e-4)


def test_one_step_is_the_papers_formula():
    latents, ids = clusters(count=3)
    book = CodebookEMA(torch.zeros(3, 3), decay=0.75)
    book.initialize(latents, rng())
    N, m = book.N.clone(), book.m.clone()
    book.update(latents, ids, rng())
    for k in range(3):
        expected_N = 0.75 * N[k] + 0.25 * 50
        expected_m = 0.75 * m[k] + 0.25 * latents[ids == k].sum(0)
        assert torch.allclose(book.codes[k], expected_m / expected_N, atol=1e-5)


def test_codes_start_as_latents():
    latents, _ = clusters()
    book = CodebookEMA(torch.zeros(8, 3), decay=0.99)
    book.initialize(latents, rng())
    assert all(is_one_of(code, latents) for code in book.codes)
    assert len(book.codes.unique(dim=0)) > 1


def test_codes_are_moved_in_place():
    """The codebook belongs to the model: another tensor would leave the model's as it was."""
    codes = torch.zeros(4, 3)
    latents, ids = clusters()
    book = CodebookEMA(codes, decay=0.9)
    book.initialize(latents, rng())
    started = codes.clone()
    book.update(latents, ids, rng())
    assert book.codes is codes and not torch.equal(codes, started)


def starve(book: CodebookEMA, latents, ids, code: int, steps: int) -> int:
    """Update with latents that are never `code`'s, until it is revived; how many updates that took."""
    fed = ids != code
    for step in range(1, steps + 1):
        before = book.codes[code].clone()
        book.update(latents[fed], ids[fed], rng(step))
        if not torch.equal(book.codes[code], before) and not torch.allclose(book.codes[code], before, atol=1e-4):
            return step
    raise AssertionError(f"the code was never revived in {steps} steps")


def settled(decay: float = 0.9) -> tuple[CodebookEMA, torch.Tensor, torch.Tensor]:
    latents, ids = clusters(count=3)
    book = CodebookEMA(torch.zeros(3, 3), decay)
    book.initialize(latents, rng())
    for _ in range(100):
        book.update(latents, ids, rng())
    return book, latents, ids


def test_a_dead_code_is_revived_as_a_latent_and_its_averages_with_it():
    book, latents, ids = settled()
    starve(book, latents, ids, code=2, steps=100)
    assert is_one_of(book.codes[2], latents[ids != 2])
    assert torch.allclose(book.m[2] / book.N[2], book.codes[2], atol=1e-6)
    heir = book.codes[2].clone()
    # The old average would pull it back to where it was; now one update with its own latents keeps it among them.
    ids = nearest(latents[ids != 2], book.codes)
    book.update(latents[: len(ids)], ids, rng())
    assert (book.codes[2] - heir).norm() < (book.codes[2] - torch.tensor([0.0, 0.0, 10.0])).norm()


def test_a_code_dies_when_its_share_has_fallen_under_the_threshold():
    book, latents, ids = settled(decay=0.9)
    took = starve(book, latents, ids, code=2, steps=100)
    # Its count starts at 50 and decays by 0.9 a step; the average code then has 100 / 3.
    expected = next(n for n in range(100) if 50 * 0.9**n < DEAD * 100 / 3)
    assert took == expected


def test_revival_leaves_the_living_alone():
    """What the living codes become does not depend on whether another one was revived."""
    book, latents, ids = settled()
    fed = ids != 2
    took = starve(book, latents, ids, code=2, steps=100)
    plain, _, _ = settled()
    N, m = plain.N.clone(), plain.m.clone()
    for _ in range(took):
        count = torch.tensor([50.0, 50.0, 0.0])
        total = torch.stack([latents[ids == 0].sum(0), latents[ids == 1].sum(0), torch.zeros(3)])
        N, m = 0.9 * N + 0.1 * count, 0.9 * m + 0.1 * total
    assert fed.sum() == 100
    assert torch.allclose(book.N[:2], N[:2], rtol=1e-4)
    assert torch.allclose(book.codes[:2], m[:2] / N[:2, None], atol=1e-4)


def test_a_code_is_revived_where_the_codebook_is_worst():
    """All latents lie on their codes but for one heap, far away: that is where the heir belongs."""
    heap = torch.full((5, 3), 30.0) + torch.randn(5, 3, generator=rng(1))
    latents = torch.cat([torch.zeros(95, 3), heap])
    book = CodebookEMA(torch.tensor([[0.0, 0, 0], [1.0, 1, 1]]), decay=0.5)
    book.N.copy_(torch.tensor([100.0, 0.0]))
    book.m.copy_(torch.tensor([[0.0, 0, 0], [0.0, 0, 0]]))
    book.update(latents, torch.zeros(100, dtype=torch.long), rng())
    assert is_one_of(book.codes[1], heap)


def test_codes_that_get_their_share_are_not_revived_however_many_latents_a_step_has():
    """Many latents a code, as with large pictures or small codebooks: a young code must not count as dead."""
    latents, ids = clusters(count=3, each=1000)
    book = CodebookEMA(torch.zeros(3, 3), decay=0.99)
    book.initialize(latents, rng())
    for step in range(5):
        N, m = book.N.clone(), book.m.clone()
        book.update(latents, ids, rng(step))
        total = torch.stack([latents[ids == k].sum(0) for k in range(3)])
        expected = (0.99 * m + 0.01 * total) / (0.99 * N + 0.01 * 1000)[:, None]
        assert torch.allclose(book.codes, expected, atol=1e-3), "a code with an average share was revived"


def test_training_uses_every_code_where_the_data_can():
    """Sixteen heaps, sixteen codes, all started in the same heap: revival must spread them out."""
    latents, _ = clusters(count=16, each=40, d=16)
    book = CodebookEMA(torch.zeros(16, 16), decay=0.9)
    book.initialize(latents[::16], rng())  # every one of these belongs to heap 0
    for step in range(400):
        book.update(latents, nearest(latents, book.codes), rng(step))
    assert len(nearest(latents, book.codes).unique()) == 16


def test_restored_from_its_state_it_continues_identically():
    latents, ids = clusters()
    book = CodebookEMA(torch.zeros(4, 3), decay=0.9)
    book.initialize(latents, rng())
    for step in range(5):
        book.update(latents, ids, rng(step))
    twin = CodebookEMA(book.codes.clone(), decay=0.9)
    twin.load_state_dict(book.state_dict())
    for step in range(5, 40):  # long enough for codes to die and be revived
        for one in (book, twin):
            one.update(latents[ids != 1], ids[ids != 1], rng(step))
    assert torch.equal(book.codes, twin.codes) and torch.equal(book.N, twin.N) and torch.equal(book.m, twin.m)


def test_a_saved_state_does_not_change_as_training_goes_on():
    book, latents, ids = settled()
    state = book.state_dict()
    kept = {name: value.clone() for name, value in state.items()}
    book.update(latents[:7], ids[:7], rng())
    assert all(torch.equal(state[name], kept[name]) for name in kept)
