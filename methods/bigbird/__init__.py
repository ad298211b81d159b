"""BigBird: block-sparse attention with window, global and random blocks; ITC and ETC."""

from methods.bigbird.etc import BigBirdETC
from methods.bigbird.itc import BigBird

__all__ = ["BigBird", "BigBirdETC"]
