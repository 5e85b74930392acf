"""Locate the files that come with the package, in a checkout and in an installed wheel."""

from pathlib import Path

from milan.errors import BadInput

_PACKAGE = Path(__file__).parents[1]


def locate_packaged_data(relative: str) -> Path:
    """Return the path of a packaged file or folder, such as ``"data/diorama"`` or ``"configs/prior.yaml"``.

    Raises:
        BadInput: the path is neither in the installed package nor in the checkout.
    """
    for root in (_PACKAGE / "_embedded", _PACKAGE.parent):
        if (root / relative).exists():
            return root / relative
    raise BadInput(
        f"{relative} is not part of this installation of milan (looked in {_PACKAGE.parent}); install it again"
    )
