"""Find the images below a folder: each folder once, links to folders followed, and nothing skipped silently."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from paddle_dla.data.errors import DataError
from paddle_dla.data.source import printable, shortened

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg")


def is_image(name: str) -> bool:
    """Return whether a file of this name counts as an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def refuse_picture_in(data: str | os.PathLike[str] | None, picture: str | os.PathLike[str]) -> None:
    """Raise ``DataError`` if a ``picture`` to be written would become one of the images below ``data``."""
    tree = None if data is None else os.path.realpath(os.path.expanduser(data))
    if tree is None or not os.path.isdir(tree) or not is_image(os.fspath(picture)):
        return
    if is_below(picture, tree):
        raise DataError(f"{picture} would lie among the images of {data}, as one of them; write it elsewhere")


def refuse_folder_in(data: str | os.PathLike[str] | None, folder: str | os.PathLike[str], what: str) -> None:
    """Raise ``DataError`` if ``what``, a ``folder`` to be written, would be inside the tree of images ``data``.

    It would become a class of its own, or add pictures to one.
    """
    tree = None if data is None else os.path.realpath(os.path.expanduser(data))
    if tree is not None and os.path.isdir(tree) and is_below(folder, tree):
        raise DataError(f"{what} is {folder}, within the images of {data}: it would add to them; name a folder outside")


def is_below(path: str | os.PathLike[str], tree: str) -> bool:
    """Return whether ``path`` is the real path ``tree``, or inside it."""
    return os.path.commonpath([tree, os.path.realpath(path)]) == tree


class Walk:
    """A walk through any number of trees. ``left_out``: extension -> number of files whose names are not images'."""

    def __init__(self):
        self.left_out: Counter[str] = Counter()
        self._reached: dict[tuple[int, int], str] = {}

    def images(self, top: str) -> Iterator[str]:
        """Yield the paths of all images below ``top``, in any order.

        Raises ``DataError`` for a folder that cannot be listed, a broken link, and a folder that is reached twice,
        through a link: its images would count twice, or without end in a loop.
        """
        folders = [top]
        while folders:
            folder = folders.pop()
            self._enter(folder)
            for path, is_folder in _listed(folder):
                if is_folder:
                    folders.append(path)
                elif is_image(path):
                    yield path
                else:
                    self.left_out[os.path.splitext(path)[1].lower()] += 1

    def _enter(self, folder: str) -> None:
        try:
            found = os.stat(folder)
        except OSError as error:
            raise _unlisted(folder, error) from error
        before = self._reached.setdefault((found.st_dev, found.st_ino), folder)
        # some network file systems give different folders the same number: compare their paths too
        if before != folder and os.path.realpath(before) == os.path.realpath(folder):
            raise DataError(
                f"{folder} and {before} are the same folder, through a link; remove one, or its images count twice"
            )

    def notes(self, root: str) -> tuple[str, ...]:
        """Return messages for the user on the files left out."""
        if not self.left_out:
            return ()
        kinds = [f"{count} {extension or 'without extension'}" for extension, count in self.left_out.most_common()]
        named = f"{self.left_out.total()} files are left out, which are no images by their names"
        return (f"{root}: {named} ({', '.join(IMAGE_EXTENSIONS)}): {printable(shortened(kinds))}",)


def _listed(folder: str) -> list[tuple[str, bool]]:
    """Return the path of each entry, and whether it is a folder."""
    try:
        with os.scandir(folder) as entries:
            return [(entry.path, is_folder(entry)) for entry in entries]
    except OSError as error:
        raise _unlisted(folder, error) from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a folder, or a link to one. Raises ``OSError`` for a broken link not named as an image."""
    if entry.is_dir():
        return True
    if entry.is_symlink() and not is_image(entry.name):
        entry.stat()  # raises for a broken link: it may have led to a folder of images
    return False


def _unlisted(folder: str, error: OSError) -> DataError:
    return DataError(
        f"{error.filename or folder}: cannot be looked into: {error.strerror or error}; images may be missing: mend or "
        "remove it"
    )
