"""E-mails: who wrote whom and when, what they wrote, and each attachment as a document of its own within it."""

import contextlib
import email
import email.errors
import email.header
import email.policy
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from email.message import EmailMessage, MIMEPart
from pathlib import Path

from datasets_app.engine import outlook
from datasets_app.engine.elements import TEXT, TITLE, Element
from datasets_app.engine.partition import from_html, from_text

MAX_ATTACHMENTS = 100
Reader = Callable[[Path, str], Iterator[Element]]


@dataclass(frozen=True)
class Mail:
    """`html` is read where there is no plain text; attachments as (name, content)."""

    subject: str
    fields: dict[str, str]
    text: str
    html: str
    attachments: list[tuple[str, bytes]]


def read_eml(path: Path, read_attachment: Reader, warnings: list[str]) -> Iterator[Element]:
    with path.open("rb") as stream:
        message = email.message_from_binary_file(stream, policy=email.policy.default)
    assert isinstance(message, EmailMessage)  # of that policy
    yield from _told(_opened(message), read_attachment, warnings)


def read_msg(path: Path, read_attachment: Reader, warnings: list[str]) -> Iterator[Element]:
    import oxmsg

    message = oxmsg.Message.load(str(path))
    headers = message.message_headers
    fields = {name: _decoded(headers.get(name, "")) for name in ("From", "To", "Cc")}
    fields["From"] = fields["From"] or message.sender or ""
    fields["To"] = fields["To"] or ", ".join(entry.email_address or entry.name for entry in message.recipients)
    fields["Date"] = str(message.sent_date or "")
    contents = ((entry.file_name or "attachment", entry.file_bytes) for entry in message.attachments)
    attachments = [(name, content) for name, content in contents if content is not None]
    attachments += outlook.embedded(path, warnings)
    mail = Mail(message.subject or "", fields, message.body or "", message.html_body or "", attachments)
    yield from _told(mail, read_attachment, warnings)


def _decoded(field: str) -> str:
    """A header's words, which may be encoded."""
    try:
        return str(email.header.make_header(email.header.decode_header(field)))
    except (UnicodeDecodeError, LookupError, email.errors.HeaderParseError):
        return field


def _opened(message: EmailMessage) -> Mail:
    fields = {name: _field(message, name) for name in ("From", "To", "Cc", "Date")}
    text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
    attachments = []
    for part in message.iter_attachments():
        assert isinstance(part, EmailMessage)
        attachments.append((_name(part), _content(part)))
    return Mail(_field(message, "Subject"), fields, _text(text), _text(html) if text is None else "", attachments)


def _told(mail: Mail, read_attachment: Reader, warnings: list[str]) -> Iterator[Element]:
    yield Element(0, TITLE, mail.subject or "E-mail without a subject", depth=0)
    if told := "\n".join(f"{name}: {value}" for name, value in mail.fields.items() if value):
        yield Element(0, TEXT, told)
    yield from from_text(mail.text) if mail.text.strip() else from_html(mail.html) if mail.html.strip() else ()
    for number, (name, content) in enumerate(mail.attachments, start=1):
        if number > MAX_ATTACHMENTS:
            warnings.append(
                f"The e-mail has {len(mail.attachments)} attachments; the first {MAX_ATTACHMENTS} were read."
            )
            return
        # Never under its own name, which whoever sent it chose.
        aside = Path.cwd() / f"attachment-{uuid.uuid4().hex}"
        aside.write_bytes(content)
        yield Element(0, TITLE, f"Attachment: {name}", depth=1)
        for element in read_attachment(aside, name):  # its headings stand under its name
            yield replace(element, depth=(element.depth or 0) + 2) if element.kind == TITLE else element
        aside.unlink()


def _field(message: EmailMessage, name: str) -> str:
    try:
        return str(message.get(name) or "")
    except (ValueError, LookupError, AttributeError, IndexError):  # the standard library's parser, on what is no header
        return ""


def _name(part: EmailMessage) -> str:
    try:
        return part.get_filename() or ("message.eml" if part.get_content_type() == "message/rfc822" else "attachment")
    except (ValueError, LookupError):
        return "attachment"


def _text(part: MIMEPart | None) -> str:
    if part is None:
        return ""
    payload = part.get_payload(decode=True)
    content = payload if isinstance(payload, bytes) else b""
    if not content.isascii():  # hardly any other text is UTF-8 by chance, whatever its header says
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode()
    try:
        return str(part.get_content())
    except (LookupError, ValueError):  # a character set that does not exist
        return content.decode("utf-8", errors="replace")


def _content(part: EmailMessage) -> bytes:
    if part.get_content_type() == "message/rfc822":
        inner = part.get_payload(0)
        return inner.as_bytes() if isinstance(inner, EmailMessage) else b""
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""
