"""Whether images, patches and windows fit each other, by the recipe alone."""

from __future__ import annotations

from t2x_core.errors import UserError
from t2x_core.recipe.components import multiples
from t2x_core.recipe.schema import Recipe


def check_geometry(recipe: Recipe, factor: int | None, frame_factor: int | None) -> None:
    """Raises UserError, with the key of the setting, if a size that the recipe fixes cannot be cut into tokens, or if
    the window is larger than the token grid of each of them.

    (A window that is larger than some grids is cut down for these, and so is one with more frames than there are.)

    Args:
        factor, frame_factor: of the codec; None if they are only known once it is loaded.
    """
    if frame_factor is not None:
        _check_frames(recipe, frame_factor)
    if factor is None:
        return
    token = factor * recipe.backbone.patch_size  # pixels
    sizes = {f"tasks.{name}.{key}": size for name, task in recipe.tasks.items() for key, size in task.sizes().items()}
    for key, size in sizes.items():
        for pixels in size:
            if pixels % token:
                raise UserError(
                    f"{pixels} pixels do not divide into tokens of {token} (codec {factor} × backbone.patch_size "
                    f"{recipe.backbone.patch_size}); {multiples(pixels, token)} do",
                    key=key,
                )
    window, attention = recipe.backbone.window, recipe.backbone.attention
    if window == "auto" or attention == "dense" or not sizes:
        return
    rows, columns = (max(size[axis] for size in sizes.values()) // token for axis in (0, 1))
    if window[1] > rows or window[2] > columns:
        raise UserError(
            f"{window[1]} × {window[2]} tokens are more than there are: the largest sample has {rows} × {columns}",
            key="backbone.window",
            hint="write auto, or a smaller window",
        )


def _check_frames(recipe: Recipe, factor: int) -> None:
    for name, task in recipe.tasks.items():
        for key, frames in ((key, frames) for key, numbers in task.frames().items() for frames in numbers):
            if (frames - 1) % factor:
                raise UserError(
                    f"{frames} frames do not fit the {recipe.codec.name} codec, which makes one of {factor} after the "
                    f"first; {frames - (frames - 1) % factor} and {frames - (frames - 1) % factor + factor} do",
                    key=f"tasks.{name}.{key}",
                )
