"""One page of a PDF as a picture. A process of its own: a file made to do harm is drawn too."""

from pathlib import Path
from typing import Any

from datasets_app.engine.spec import PageSpec
from finetune_site.lib.channel import Channel, InputError

MAX_PIXELS = 20_000_000


def run(spec: PageSpec, link: Channel) -> dict[str, Any]:
    """Write the PNG, whole or not at all; `InputError` for a page that is not there or cannot be drawn."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(spec.input_path)
        page = document[spec.page - 1]
        width, height = page.get_size()
        scale = spec.width / width
        if spec.width * height * scale > MAX_PIXELS:
            raise InputError("The page is too long to be drawn.")
        picture = page.render(scale=scale).to_pil()
    except (pypdfium2.PdfiumError, IndexError, ZeroDivisionError) as error:
        raise InputError(f"Page {spec.page} cannot be drawn: {error}") from error
    out = Path(spec.out_path)
    aside = out.with_suffix(".part")
    picture.save(aside, format="PNG", optimize=True)
    aside.rename(out)
    return {"width": picture.width, "height": picture.height}
