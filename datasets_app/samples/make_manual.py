"""Makes the sample document, the manual of a machine that does not exist, as PDF and DOCX.

Everything in it is invented, so that no model can know it: what a tuned model answers, it has learned from here.
Run it from this folder with the development extra installed: `python make_manual.py`.
"""

from pathlib import Path
from typing import Any

TITLE = "Kestrel 40 Tide Mill"
SUBTITLE = "Operating and service manual, edition 3"
MAKER = "Ostrander & Vale, Pellworth Quay"

# (heading, paragraphs, table caption, table rows, list lead-in, list items)
CHAPTERS: list[tuple[str, list[str], list[tuple[str, str]], str, list[str]]] = [
    (
        "The Kestrel 40 tide mill",
        [
            "The Kestrel 40 is a grain mill that is driven by the tide. Water enters through the sluice on the rising "
            "tide, turns the rotor on its way into the pond, and turns it again on its way out. The mill needs no "
            "engine and no connection to the grid.",
            "This manual is written for the miller who runs the mill every day and for the fitter who visits it twice "
            "a year. Read the chapter on safety before you open any cover.",
        ],
        [
            ("manufacturer", "Ostrander & Vale"),
            ("place of manufacture", "Pellworth"),
            ("year of introduction", "2019"),
            ("total weight", "6,840 kg"),
            ("milling capacity", "415 kg per hour"),
            ("smallest usable tide", "1.7 metres"),
            ("noise level", "71 decibels"),
            ("warranty period", "31 months"),
        ],
        "The mill is delivered in four crates:",
        [
            "crate A with the rotor and its shaft",
            "crate B with the gearbox and the brake",
            "crate C with the stones and the hopper",
            "crate D with the control cabinet and the tools",
        ],
    ),
    (
        "The Tollen rotor",
        [
            "The Tollen rotor is a vertical turbine with curved blades. It turns in the same direction whether the "
            "water flows in or out, so the mill needs no reversing gear. The blades are bolted one by one and can be "
            "changed without lifting the shaft.",
            "Inspect the leading edges after every storm. A nick deeper than the thickness of a coin must be ground "
            "out before the rotor turns again.",
        ],
        [
            ("diameter", "2.35 metres"),
            ("number of blades", "11"),
            ("blade material", "bronze alloy CV9"),
            ("rated speed", "46 rpm"),
            ("weight", "1,190 kg"),
            ("bolt torque", "185 Nm"),
            ("inspection interval", "260 hours"),
            ("part number", "TR-7714"),
        ],
        "To change a blade:",
        [
            "close the sluice and wait until the rotor stands still",
            "lock the shaft with the red pin",
            "loosen the six bolts of the blade crosswise",
            "fit the new blade with fresh locking plates",
        ],
    ),
    (
        "The Brannick gearbox",
        [
            "The Brannick gearbox raises the slow turning of the rotor to the speed of the stones. It is a planetary "
            "gearbox with two stages, and it stands in an oil bath of its own. A sight glass on the west side shows "
            "the level of the oil.",
            "The oil of a new gearbox carries fine metal from the running-in. Change it for the first time after the "
            "first month of work.",
        ],
        [
            ("gear ratio", "1 to 8.6"),
            ("oil type", "Lorvan 150"),
            ("oil capacity", "23 litres"),
            ("oil change interval", "1,400 hours"),
            ("maximum oil temperature", "84 degrees"),
            ("weight", "730 kg"),
            ("drain plug size", "27 mm"),
            ("part number", "BG-2056"),
        ],
        "",
        [],
    ),
    (
        "The Sarn millstones",
        [
            "The Sarn millstones are a pair of stones cut from a single block of basalt. The lower stone rests; the "
            "upper stone turns and is carried by a spindle of stainless steel. The gap between the stones decides how "
            "fine the flour becomes.",
            "Never let the stones run empty. Without grain between them they heat up within seconds and lose their "
            "dressing.",
        ],
        [
            ("diameter", "1.28 metres"),
            ("working gap", "0.35 mm"),
            ("rated speed", "395 rpm"),
            ("number of furrows", "18"),
            ("dressing interval", "620 hours"),
            ("origin", "Mount Keld"),
            ("maximum flour temperature", "38 degrees"),
            ("part number", "SM-3390"),
        ],
        "The stones are dressed with three tools:",
        ["the mill bill for the furrows", "the scraper for the lands", "the red staff to prove the surface"],
    ),
    (
        "The Corrin hopper",
        [
            "The Corrin hopper stores the grain above the stones. A shaker driven by the spindle lets the grain fall "
            "evenly into the eye of the upper stone. A lid with a rubber seal keeps out moisture and mice.",
            "Fill the hopper with clean and dry grain only. Grain with more than the permitted moisture sticks to the "
            "shaker and starves the stones.",
        ],
        [
            ("capacity", "540 litres"),
            ("material", "ash wood"),
            ("maximum grain moisture", "13.5 percent"),
            ("shaker frequency", "9 strokes per second"),
            ("mesh width", "4 mm"),
            ("cleaning interval", "12 days"),
            ("lid seal", "type Q5"),
            ("part number", "CH-1188"),
        ],
        "",
        [],
    ),
    (
        "The Varley sluice",
        [
            "The Varley sluice is the gate between the sea and the mill pond. It is raised and lowered by a spindle "
            "that the control cabinet drives. In an emergency it can be closed by hand with the yellow crank.",
            "Keep the grooves of the gate free of mussels. A gate that does not seat fully lets the pond run empty "
            "before the tide turns.",
        ],
        [
            ("gate width", "3.1 metres"),
            ("closing time", "52 seconds"),
            ("motor power", "1.9 kilowatts"),
            ("crank turns by hand", "140"),
            ("grease type", "Pexil Marine"),
            ("greasing interval", "21 days"),
            ("seal material", "nitrile rubber"),
            ("part number", "VS-4402"),
        ],
        "The sluice closes by itself when:",
        [
            "the rotor turns faster than it may",
            "the flour becomes too hot",
            "the control cabinet loses its power",
        ],
    ),
    (
        "The Haldane brake",
        [
            "The Haldane brake is a disc brake on the fast shaft. Springs press it shut and oil pressure holds it "
            "open, so it closes by itself when anything fails. It is a safety part and may be opened by a trained "
            "fitter only.",
        ],
        [
            ("holding torque", "2,750 Nm"),
            ("release pressure", "64 bar"),
            ("brake fluid", "Nimbra 4"),
            ("pad thickness when new", "14 mm"),
            ("smallest pad thickness", "5.5 mm"),
            ("test interval", "90 days"),
            ("disc diameter", "610 mm"),
            ("part number", "HB-8821"),
        ],
        "",
        [],
    ),
    (
        "The Quennell control cabinet",
        [
            "The Quennell control cabinet watches the tide, the speed of the rotor and the temperature of the flour. "
            "It is fed by a small solar panel and a battery. Three lamps on its door show the state of the mill: "
            "green for milling, amber for waiting, red for a fault.",
            "Every fault is written into a log that holds the last four hundred entries. The miller reads it on the "
            "display; the fitter copies it with the service cable.",
        ],
        [
            ("battery voltage", "48 volts"),
            ("battery life", "7 years"),
            ("panel power", "220 watts"),
            ("protection class", "IP67"),
            ("service password", "heron-52"),
            ("log size", "400 entries"),
            ("software version", "5.3"),
            ("part number", "QC-6047"),
        ],
        "",
        [],
    ),
    (
        "Faults and what to do",
        [
            "A fault code is a number on the display of the control cabinet. Write it down together with the time "
            "before you press the reset button. The table gives the meaning of the codes that a miller may clear.",
        ],
        [
            ("meaning of code E11", "the rotor is blocked"),
            ("meaning of code E23", "the gearbox oil is too hot"),
            ("meaning of code E37", "the hopper is empty"),
            ("meaning of code E42", "the sluice does not close"),
            ("meaning of code E58", "the brake pads are worn"),
            ("meaning of code E64", "the battery is low"),
            ("telephone of the service desk", "0555 7204 318"),
            ("response time of the service desk", "36 hours"),
        ],
        "Before you call the service desk, have at hand:",
        ["the fault code and its time", "the serial number on the gearbox", "the height of the last tide"],
    ),
]


def table_head(heading: str) -> tuple[str, str]:
    return ("Fact", "Value") if heading.startswith("Faults") else ("Property", "Value")


def make_pdf(path: Path) -> None:
    from reportlab.lib import colors
    from reportlab.lib.pagesizes import A5
    from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
    from reportlab.lib.units import mm
    from reportlab.platypus import ListFlowable, ListItem, PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table

    sheet = getSampleStyleSheet()
    body = ParagraphStyle("body", parent=sheet["BodyText"], fontSize=9.5, leading=13, spaceAfter=6)
    head = ParagraphStyle("head", parent=sheet["Heading1"], fontSize=15, spaceAfter=8)
    story: list[Any] = [
        Paragraph(TITLE, ParagraphStyle("title", parent=sheet["Title"], fontSize=24, leading=28)),
        Paragraph(f"{SUBTITLE}. {MAKER}.", body),
        Spacer(1, 6 * mm),
    ]
    for number, (heading, paragraphs, rows, lead, items) in enumerate(CHAPTERS):
        if number:
            story.append(PageBreak())
        story.append(Paragraph(heading, head))
        story += [Paragraph(text, body) for text in paragraphs]
        table = Table([table_head(heading), *rows], colWidths=[58 * mm, 54 * mm], hAlign="LEFT")
        table.setStyle(
            [
                ("GRID", (0, 0), (-1, -1), 0.5, colors.grey),
                ("BACKGROUND", (0, 0), (-1, 0), colors.HexColor("#e6edf5")),
                ("FONTNAME", (0, 0), (-1, 0), "Helvetica-Bold"),
                ("FONTSIZE", (0, 0), (-1, -1), 9.5),
            ]
        )
        story += [table, Spacer(1, 4 * mm)]
        if items:
            bullets = [ListItem(Paragraph(item, body)) for item in items]
            story += [Paragraph(lead, body), ListFlowable(bullets, bulletType="bullet")]

    def footer(canvas: Any, document: Any) -> None:
        canvas.setFont("Helvetica", 7.5)
        canvas.drawString(18 * mm, 10 * mm, f"{TITLE} · {SUBTITLE}")
        canvas.drawRightString(130 * mm, 10 * mm, f"Page {document.page}")

    SimpleDocTemplate(
        str(path), pagesize=A5, title=TITLE, author=MAKER, leftMargin=18 * mm, rightMargin=18 * mm, invariant=1
    ).build(story, onFirstPage=footer, onLaterPages=footer)


def make_docx(path: Path) -> None:
    import docx

    document = docx.Document()
    document.core_properties.title = TITLE
    document.add_heading(TITLE, level=0)
    document.add_paragraph(f"{SUBTITLE}. {MAKER}.")
    for heading, paragraphs, rows, lead, items in CHAPTERS:
        document.add_heading(heading, level=1)
        for text in paragraphs:
            document.add_paragraph(text)
        table = document.add_table(rows=0, cols=2, style="Table Grid")
        for left, right in (table_head(heading), *rows):
            cells = table.add_row().cells
            cells[0].text, cells[1].text = left, right
        if items:
            document.add_paragraph(lead)
            for item in items:
                document.add_paragraph(item, style="List Bullet")
    document.save(str(path))


if __name__ == "__main__":
    folder = Path(__file__).parent
    make_pdf(folder / "kestrel-40-manual.pdf")
    make_docx(folder / "kestrel-40-manual.docx")
