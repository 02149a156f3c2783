import pytest
import torch

from logitstore.errors import InvalidInput
from logitstore.samplers.philox import Purpose, philox, uniforms

# known answers published with the generator (Random123): counter words, key, output words
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0_A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "seed", "words"), KNOWN)
def test_philox_gives_the_published_words(counter, seed, words):
    found = philox(tuple(torch.tensor(word) for word in counter), seed)
    assert tuple(int(word) for word in found) == words


def draw(positions, draws=6, **changed):
    options = {"seed": 7, "index": 11, "purpose": Purpose.SAMPLING} | changed
    return uniforms(torch.tensor(positions), draws, **options)


def test_uniforms_depend_on_position_not_on_batch():
    together = draw([3, 4, 5])
    assert torch.equal(together[1:2], draw([4]))
    assert torch.equal(together[:, :5], draw([3, 4, 5], draws=5))
    assert torch.equal(together[:, 2:], draw([3, 4, 5], draws=4, first_draw=2))


@pytest.mark.parametrize(
    "changed",
    [{"seed": 8}, {"seed": 7 + (1 << 32)}, {"index": 12}, {"index": 11 + (1 << 32)}, {"purpose": Purpose.THINNING}],
)
def test_uniforms_differ_for_every_part_of_the_key(changed):
    assert not torch.isin(draw([3, 4]), draw([3, 4], **changed)).any()


def test_uniforms_are_uniform_and_below_one():
    numbers = draw(list(range(20_000)), draws=5).flatten()
    assert 0.0 <= float(numbers.min()) < float(numbers.max()) < 1.0
    # mean of 100,000: |z| < 5, false alarm below 1e-6
    assert abs(float(numbers.mean()) - 0.5) < 5 / (12 * len(numbers)) ** 0.5
    counts = torch.histc(numbers.float(), bins=100, min=0, max=1)
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert 50 < chi_square < 170  # 99 degrees of freedom, both sides below 1e-5


@pytest.mark.parametrize("changed", [{"seed": -1}, {"seed": 1 << 64}, {"index": -1}, {"index": 1 << 56}])
def test_keys_out_of_range_are_refused(changed):
    with pytest.raises(InvalidInput, match="was wanted"):
        draw([0], **changed)
