"""What tests call is checked: the types of arguments and results, and that sizes of one name are equal."""

import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float
from torch import Tensor

from milan.diorama.raster import make_letter_cells
from milan.units import Unit


@jaxtyping.jaxtyped(typechecker=beartype)
def multiply(one: Float[Tensor, "a b"], other: Float[Tensor, "b c"]) -> Float[Tensor, "a c"]:
    return one @ other if len(one) != 3 else one


def test_types_of_functions_and_dataclasses_are_checked() -> None:
    for call in (lambda: Unit("layer", "1"), lambda: make_letter_cells(1, 2)):
        with pytest.raises(jaxtyping.TypeCheckError):
            call()


@pytest.mark.parametrize("sizes", [((2, 4), (5, 4)), ((3, 4), (4, 5)), ((2, 4, 1), (4, 5))])
def test_sizes_of_one_name_are_equal(sizes: tuple) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        multiply(*map(torch.zeros, sizes))
    assert multiply(torch.zeros(2, 5), torch.zeros(5, 3)).shape == (2, 3)
