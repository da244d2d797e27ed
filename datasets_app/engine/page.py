"""One page of a document as a picture to look at. A process of its own: a file made to do harm is drawn too."""

from pathlib import Path
from typing import Any

from datasets_app.engine import pictures
from datasets_app.engine.spec import PageSpec
from finetune_site.lib.channel import Channel, InputError

MAX_PIXELS = 20_000_000


def run(spec: PageSpec, link: Channel) -> dict[str, Any]:
    """Write the PNG, whole or not at all; `InputError` for a page that is not there or cannot be drawn."""
    with Path(spec.input_path).open("rb") as stream:
        is_pdf = b"%PDF-" in stream.read(1024)
    picture = _of_pdf(spec) if is_pdf else _of_picture(spec)
    out = Path(spec.out_path)
    aside = out.with_suffix(".part")
    picture.save(aside, format="PNG", optimize=True)
    aside.rename(out)
    return {"width": picture.width, "height": picture.height}


def _of_pdf(spec: PageSpec) -> Any:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(spec.input_path)
        page = document[spec.page - 1]
        width, height = page.get_size()
        scale = spec.width / width
        if spec.width * height * scale > MAX_PIXELS:
            raise InputError("The page is too long to be drawn.")
        return page.render(scale=scale).to_pil()
    except (pypdfium2.PdfiumError, IndexError, ZeroDivisionError) as error:
        raise InputError(f"Page {spec.page} cannot be drawn: {error}") from error


def _of_picture(spec: PageSpec) -> Any:
    try:
        with pictures.open_picture(Path(spec.input_path)) as frame:
            frame.seek(spec.page - 1)
            picture = pictures.upright(frame).convert("RGB")
    except (EOFError, OSError, ValueError) as error:
        raise InputError(f"Page {spec.page} cannot be drawn: {error}") from error
    picture.thumbnail((spec.width, MAX_PIXELS // spec.width))
    return picture
