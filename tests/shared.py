"""Public data that lies beside the project on some machines; tests of it skip elsewhere."""

from pathlib import Path


def shared_data(name: str) -> Path | None:
    """``shared/data/NAME`` beside a folder that holds this file, or None."""
    places = (parent / "shared" / "data" / name for parent in Path(__file__).resolve().parents)
    return next((place for place in places if place.exists()), None)
