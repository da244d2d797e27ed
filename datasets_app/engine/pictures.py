"""Pictures as documents: PNG, JPEG and TIFF, each frame a page that is read by text recognition."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_app.engine import ocr
from datasets_app.engine.elements import Element
from datasets_app.engine.spec import Reading
from finetune_site.lib.channel import Channel, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 150_000_000  # of one frame, before it is unpacked: 300 dpi of a sheet of A1


def count(path: Path, reading: Reading) -> int:
    """Its frames; `InputError` for one that cannot be opened, is too large, or that nothing here can read."""
    if reading.strategy == "text":
        raise InputError("A picture holds no text to take out. Choose text recognition for it.")
    ocr.check(reading.languages)
    with open_picture(path) as picture:
        return getattr(picture, "n_frames", 1)


def read(path: Path, reading: Reading, pages: int, link: Channel, report: ocr.Report) -> Iterator[Element]:
    """Frame by frame."""
    chosen = reading.pages(pages)
    with open_picture(path) as picture:
        for done, number in enumerate(chosen, start=1):
            link.check()
            picture.seek(number - 1)
            yield from ocr.read_picture(upright(picture), number, reading.languages, report)
            link.emit("progress", done=done, total=len(chosen), unit="pages")


def open_picture(path: Path) -> "Image":
    """The picture, not unpacked yet."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path, formats=("PNG", "JPEG", "TIFF"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"The picture has more than {MAX_PIXELS // 1_000_000} million points. Make it smaller."
        ) from error
    except (UnidentifiedImageError, OSError) as error:
        raise InputError("The picture is damaged or cut short: it cannot be opened. Save it again.") from error


def upright(picture: "Image") -> "Image":
    """As a camera says it was held."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(picture) or picture
