"""The small world of the starter's recipe, for this one."""

from __future__ import annotations

from tests.recipes.starter.conftest import composer, pictures, pytest_collection_modifyitems, small_sprites

__all__ = ["composer", "pictures", "pytest_collection_modifyitems", "small_sprites"]
