"""A method's file that fails when it is imported."""

1 / 0  # noqa: B018 - that is the point
