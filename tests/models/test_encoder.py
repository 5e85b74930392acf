"""The encoder: pooling under masks, on feature maps with known values."""

import pytest
import torch

from milan.errors import BadInput
from milan.models import Encoder, load_encoder
from tests import toys


def encoder(**settings: str) -> Encoder:
    return Encoder(toys.target(), ["conv"], **settings)


def masks(*corners: tuple[slice, slice]) -> torch.Tensor:
    made = torch.zeros(len(corners), 1, toys.SIZE, toys.SIZE, dtype=torch.bool)
    for mask, corner in zip(made, corners, strict=True):
        mask[0][corner] = True
    return made


WHOLE, TOP_LEFT, NOTHING = (slice(None), slice(None)), (slice(8), slice(8)), (slice(0), slice(0))


def test_the_mean_is_over_the_mask() -> None:
    images = toys.pictures()[[1, 5, 5]]
    features = encoder().encode(images, masks(WHOLE, TOP_LEFT, NOTHING))
    assert features.shape == (3, 8)
    torch.testing.assert_close(
        features[:, [toys.RED, toys.GREEN]], torch.tensor([[1.0, -0.5], [-0.3, 0.6], [0.0, 0.0]])
    )


def test_masks_of_numbers_are_those_of_booleans() -> None:
    image, mask = toys.pictures()[1], masks(TOP_LEFT)
    (whole,), (numbers,) = (encoder(pooling="sum").encode_regions([(image, one)]) for one in (mask, mask.float()))
    assert whole[0, toys.RED].item() == pytest.approx(64)
    torch.testing.assert_close(whole, numbers, rtol=0, atol=0, equal_nan=True)


def test_sum_pooling_follows_the_papers_formula() -> None:
    features = encoder(pooling="sum").encode(toys.pictures()[[1]], masks(TOP_LEFT))
    assert features[0, toys.RED].item() == pytest.approx(64)


def test_small_masks_count_by_area_and_vanish_by_interpolation() -> None:
    weights = [
        encoder(downsampling=kind)._mask_weights(masks((slice(1, 2), slice(1, 2))).float(), (2, 2))
        for kind in ("area", "bilinear")
    ]
    assert weights[0][0, 0].tolist() == [[1, 0], [0, 0]]
    assert not weights[1].any()


def test_features_of_a_unit_do_not_depend_on_other_units() -> None:
    images = toys.pictures()
    first, again = (encoder().encode(images[:4], masks(*[TOP_LEFT] * 4)) for _ in range(2))
    assert torch.equal(first.nan_to_num(), again.nan_to_num())


def test_images_are_scaled_to_the_encoders_input_size() -> None:
    large = toys.pictures()[[1]].repeat_interleave(3, 2).repeat_interleave(3, 3)
    mask = masks(WHOLE).repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(encoder().encode(large, mask)[:, [toys.RED, toys.GREEN]], torch.tensor([[1.0, -0.5]]))


def test_its_key_follows_weights_and_settings() -> None:
    plain, other, summed = encoder(), encoder(), encoder(pooling="sum")
    other.target.core.head.bias.data[0] = 3
    assert plain.key == encoder().key
    assert len({plain.key, other.key, summed.key}) == 3


def test_a_network_without_stages_is_refused() -> None:
    with pytest.raises(BadInput, match="has no layers conv1, layer1"):
        load_encoder("torchvision:squeezenet1_0", weights="random")


@pytest.mark.parametrize(("spec", "length"), [("torchvision:resnet18", 1024), ("torchvision:alexnet", 1152)])
def test_the_papers_feature_lengths(spec: str, length: int) -> None:
    assert load_encoder(spec, weights="random").feature_length == length
