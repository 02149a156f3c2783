import numpy as np

from logitstore.codec import PROBABILITY_RELATIVE_ERROR, WeightForm, decode, encode
from logitstore.codec.probabilities import from_codes, to_codes
from tests.codec.sequence_arrays import build


def test_every_code_decodes_and_encodes_to_itself():
    codes = np.arange(65_536, dtype=np.uint16)
    probabilities = from_codes(codes)
    assert probabilities[0] == 1
    assert (np.diff(probabilities) < 0).all()
    assert np.array_equal(to_codes(probabilities), codes)


def test_decoded_probabilities_are_the_nearest_float32_to_the_grid():
    codes = np.arange(65_536)
    exact = 2.0 ** (-codes / 2048)
    assert np.abs(from_codes(codes) / exact - 1).max() <= 2.0**-24


def test_the_relative_error_stays_within_its_bound_and_comes_near_it():
    rng = np.random.default_rng(0)
    probabilities = np.exp2(rng.uniform(-31.99, 0, 60_000)).astype(np.float32)
    arrays = build(WeightForm.PROBABILITIES, [(range(60_000), [])], probabilities)
    decoded = decode(encode(arrays)).values.astype(np.float64)
    error = np.abs(decoded / probabilities - 1).max()
    assert 0.99 * PROBABILITY_RELATIVE_ERROR < error <= PROBABILITY_RELATIVE_ERROR
    assert PROBABILITY_RELATIVE_ERROR < 0.00017


def test_smaller_probabilities_are_off_by_less_than_the_stated_absolute_error():
    small = np.array([2.0**-31.99, 2.0**-33, 1e-20, 1e-45], np.float32)
    decoded = from_codes(to_codes(small)).astype(np.float64)
    assert np.abs(decoded - small).max() < 2.33e-10
    assert (decoded > 0).all()
