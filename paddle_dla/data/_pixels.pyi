from numpy import ndarray

def resize_crop(
    image: ndarray,
    shape: tuple[int, int],
    region: tuple[int, int, int, int],
    size: tuple[int, int],
    crop: tuple[int, int, int, int],
    filter: int,
    vertical_first: bool,
    out: ndarray,
    /,
) -> None: ...
def normalise(image: ndarray, channels: int, table: ndarray, out: ndarray, /) -> None: ...
