"""The base models' tokenizers, offered to whoever counts in tokens."""

from finetune_site import bucket
from training_app.models import BaseModel
from training_app.services.artefacts import base_file

FILE = "tokenizer.json"
MAX_BYTES = 64 * 2**20


class BaseTokenizers:
    """See `datasets_app.measures.Tokenizers`."""

    def names(self) -> list[str]:
        ready = BaseModel.objects.filter(ready_at__isnull=False).order_by("name")
        return [base.name for base in ready if bucket.is_on() or (base.folder / FILE).exists()]

    def mark(self, name: str) -> str:
        base = BaseModel.objects.filter(name=name, ready_at__isnull=False).first()
        return f"{base.pk} {base.ready_at}" if base else ""

    def read(self, name: str) -> bytes:
        return base_file(BaseModel.objects.get(name=name), FILE, MAX_BYTES)
