"""What people type about documents, datasets and examples."""

import re
from typing import Any

from django import forms
from django.conf import settings

from datasets_app import measures
from datasets_app.engine import elements, names, recipes
from datasets_app.engine.formats import FORMATS
from datasets_app.engine.labelling import LAYOUTS, TURNS
from datasets_app.engine.mapping import guess
from datasets_app.engine.media_type import NAMES
from datasets_app.engine.spec import MAX_PASSAGE, Reading
from datasets_app.labelstudio import token_problem
from datasets_app.models import (
    Dataset,
    Document,
    Element,
    LabelStudioImport,
    LabelStudioServer,
    ModelServer,
    Recipe,
    State,
)
from datasets_app.models.quality import REASONS
from finetune_site.lib.channel import InputError
from finetune_site.projects.forms import StyledMixin, style
from finetune_site.projects.models import Project


class DocumentFilterForm(StyledMixin, forms.Form):
    """Which documents of a project are listed; every field may stay empty."""

    words = forms.CharField(required=False, max_length=100, label="Name")
    kind = forms.ChoiceField(required=False, choices=[("", "any"), *NAMES.items()])
    state = forms.ChoiceField(
        required=False,
        choices=[
            ("", "any"),
            ("read", "read"),
            ("waiting", "being read"),
            ("unread", "could not be read"),
            ("withdrawn", "withdrawn"),
        ],
    )


class UploadForm(forms.Form):
    """What the page's script tells of a file that it will send in parts."""

    name = forms.CharField(max_length=1000)
    size = forms.IntegerField(min_value=0, max_value=2**50)


LISTS = ("fields", "labels", "tags")  # settings of a recipe that are typed line by line
# Kinds that mean nothing before somebody says what for, with something to say.
SAMPLES: dict[str, dict[str, Any]] = {"extraction": {"fields": ["a"]}, "classification": {"labels": ["a", "b"]}}
LISTED = 200  # documents to tick; of more the newest


class ReadingForm(StyledMixin, forms.Form):
    """How a document is read and cut. `reading` is what it says, once it is valid."""

    strategy = forms.ChoiceField(
        label="Where its text comes from",
        choices=[
            ("auto", "from the file; pages that are pictures by text recognition"),
            ("text", "from the file alone"),
            ("ocr", "by text recognition alone, also where the file holds text"),
            ("layout", "of PDFs by the look of the page: columns, captions and headings that a layout model sees"),
        ],
        help_text="Choose recognition alone where a PDF's own text is garbled.",
    )
    languages = forms.CharField(
        max_length=100,
        label="Languages for text recognition",
        help_text="As tesseract names them, for example eng, or deu, eng. Each has to be installed.",
    )
    first_page = forms.IntegerField(min_value=1, label="From page")
    last_page = forms.IntegerField(min_value=0, label="To page", help_text="0: to the end.")
    finds_tables = forms.BooleanField(required=False, label="Find tables in PDFs")
    finds_names = forms.BooleanField(
        required=False,
        label="Look for names of people and places",
        help_text="A model of English guesses them, ten pages a second. Nothing is masked unless you say so.",
    )
    keeps_running_heads = forms.BooleanField(
        required=False,
        label="Keep running heads and feet as text",
        help_text="Lines that stand on many pages, and page numbers, are set aside otherwise.",
    )
    cut = forms.ChoiceField(
        label="Passages",
        choices=[("section", "by headings"), ("page", "by pages")],
        help_text="A passage never crosses a heading, or a page. Examples of one section (or page) are never parted "
        "into training and testing.",
    )
    tokens_of = forms.ChoiceField(
        required=False,
        label="Measured in",
        help_text="Tokens of the base model that will be tuned say exactly what fits into its training.",
    )
    passage_size = forms.IntegerField(
        min_value=1,
        max_value=MAX_PASSAGE,
        label="Length of a passage",
        help_text="A token of English has about four characters. A paragraph or table that is longer stays whole.",
    )
    overlap = forms.IntegerField(
        min_value=0, label="Overlap", help_text="Whole paragraphs up to this length begin the next passage again."
    )
    is_default = forms.BooleanField(required=False, label="Read new documents of this project like this too")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not settings.LAYOUT_MODEL:
            self.fields["strategy"].help_text += " By the look of the page needs a layout model: ask the operator."
        if not names.is_installed():
            self.fields["finds_names"].disabled = True
            self.fields["finds_names"].help_text = f"Needs the package {names.PACKAGE}: ask the operator to install it."
        known = measures.names()
        choices = [("", "characters"), *((name, f"tokens of {name}") for name in known)]
        if (kept := self.initial.get("tokens_of", "")) and kept not in known:
            choices.append((kept, f"tokens of {kept}, which is not here: four characters are taken for one"))
        chooser = self.fields["tokens_of"]
        assert isinstance(chooser, forms.ChoiceField)
        chooser.choices = choices

    @staticmethod
    def initial_of(reading: Reading) -> dict[str, Any]:
        return {**vars(reading), "languages": ", ".join(reading.languages)}

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.errors:
            fields = {name: value for name, value in cleaned.items() if name != "is_default"}
            fields["languages"] = tuple(part for part in re.split(r"[\s,+]+", fields["languages"]) if part)
            try:
                self.reading = Reading(**fields)
            except InputError as error:
                raise forms.ValidationError(str(error)) from error
        return cleaned


class ElementForm(StyledMixin, forms.Form):
    """One piece of a document as it should stand."""

    text = forms.CharField(
        max_length=20_000,
        widget=forms.Textarea(attrs={"rows": 6}),
        help_text="Of a table: a row a line, its cells parted by |.",
    )
    kind = forms.ChoiceField(
        choices=[
            (kind, f"{name} (in no passage)" if kind in elements.RUNNING else name)
            for kind, name in elements.NAMES.items()
            if kind != elements.OTHER
        ]
    )
    depth = forms.TypedChoiceField(
        coerce=int,
        empty_value=None,
        required=False,
        label="Depth of the heading",
        choices=[("", "as it was"), (0, "1, the highest"), *((depth, str(depth + 1)) for depth in range(1, 6))],
    )

    @staticmethod
    def initial_of(element: Element) -> dict[str, Any]:
        return {"text": element.text, "kind": element.kind, "depth": element.depth}


class DatasetForm(StyledMixin, forms.ModelForm):
    class Meta:
        model = Dataset
        fields = ["name", "description"]
        widgets = {"description": forms.Textarea(attrs={"rows": 2})}
        help_texts = {"name": "For example what the model should learn from it."}


class RecipeForm(StyledMixin, forms.Form):
    """A recipe: its template and what is set beside it, as far as its kind uses it. `settings` is what differs from
    the usual, once it is valid."""

    name = forms.CharField(max_length=30, help_text="As people choose it, for example “Questions of fitters”.")
    template = forms.CharField(
        max_length=recipes.MAX_TEMPLATE,
        widget=forms.Textarea(attrs={"rows": 14, "class": "font-monospace", "spellcheck": "false"}),
        label="What the model is told",
        help_text="Names in braces are replaced: {passage} by the text; also "
        + ", ".join(f"{{{name}}}" for name in recipes.PLACEHOLDERS if name != "passage")
        + ".",
    )
    count = forms.IntegerField(min_value=1, max_value=20, label="How many a passage")
    wordings = forms.IntegerField(min_value=1, max_value=8, label="Wordings of each")
    instruction = forms.CharField(
        max_length=400, required=False, label="What is asked of the text", help_text="It stands above each passage."
    )
    fields_text = forms.CharField(
        required=False,
        max_length=3000,
        widget=forms.Textarea(attrs={"rows": 4}),
        label="Fields",
        help_text="One a line, a name and what it is: “weight: of the whole machine, with its unit”.",
    )
    labels_text = forms.CharField(
        required=False,
        max_length=3000,
        widget=forms.Textarea(attrs={"rows": 4}),
        label="Labels",
        help_text="One a line.",
    )
    is_reasoning_tagged = forms.BooleanField(
        required=False, label="Write the reasoning between <think> and </think>, as reasoning models do"
    )
    audience = forms.CharField(max_length=100, required=False, label="Who asks", help_text="For example “fitters”.")
    tone = forms.CharField(max_length=100, required=False, help_text="For example “short and matter-of-fact”.")
    language = forms.CharField(max_length=60, required=False, help_text="Empty: the language of the passage.")
    tags_text = forms.CharField(
        required=False,
        max_length=3000,
        widget=forms.Textarea(attrs={"rows": 4}),
        label="Tags of your field",
        help_text="One a line, branches parted by slashes: “drive / gearbox”. An example gets the one that fits best.",
    )

    def __init__(self, *args: Any, kind: str, is_new: bool, **kwargs: Any) -> None:
        self.kind = recipes.KINDS[kind]
        self.recipe: recipes.Recipe | None = None
        super().__init__(*args, **kwargs)
        if not is_new:
            del self.fields["name"]
        several = "items" in recipes.Recipe(kind, settings=SAMPLES.get(kind, {})).schema().model_fields
        optional = {"wordings", "instruction", "fields", "labels", "is_reasoning_tagged"}
        for name in optional - set(self.kind.uses):
            del self.fields[f"{name}_text" if name in LISTS else name]
        if not several:
            del self.fields["count"]

    @staticmethod
    def initial_of(template: str, settings: dict[str, Any]) -> dict[str, Any]:
        """As they are kept, whether they can still be used or not."""
        chosen = {**vars(recipes.Settings()), **settings}
        lists = {f"{name}_text": "\n".join(map(str, chosen[name])) for name in LISTS}
        return {**chosen, **lists, "template": template}

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if set(self.errors) - {"name"}:  # one without a name can be looked at
            return data
        found = {name: data[name] for name in vars(recipes.Settings()) if name in data}
        for name in LISTS:
            if f"{name}_text" in data:
                found[name] = [" ".join(line.split()) for line in data[f"{name}_text"].splitlines() if line.strip()]
        data["template"] = data["template"].replace("\r\n", "\n")  # as browsers send lines
        usual = {**vars(recipes.Settings()), **{name: [] for name in LISTS}}
        self.settings = {name: value for name, value in found.items() if value != usual[name]}
        try:
            self.recipe = recipes.Recipe(self.kind.key, data["template"], self.settings)
        except InputError as error:
            raise forms.ValidationError(str(error)) from error
        return data


class GenerateForm(StyledMixin, forms.Form):
    """Which documents, which generator, by which recipe, and how many wordings."""

    everything = forms.BooleanField(required=False)
    documents = forms.ModelMultipleChoiceField(
        Document.objects.none(), widget=forms.CheckboxSelectMultiple, required=False, label="… or only these"
    )
    only_gaps = forms.BooleanField(required=False, label="Only passages that no example of this dataset comes from yet")
    model = forms.ChoiceField(
        label="Generator",
        help_text="Without a model, facts are found in tables, definitions and lists, and their answers stand in the "
        "text. A model reads freely; each of its answers must quote the text.",
    )
    recipe = forms.ChoiceField(
        required=False,
        label="What a model makes",
        help_text="By a recipe as it is shipped, or one of your project. Without a model it does not count.",
    )
    wordings = forms.IntegerField(
        min_value=1,
        max_value=12,
        initial=6,
        label="Wordings of each fact",
        help_text="A fact asked in many ways is learned; asked in one, memorised. One wording is kept for testing. "
        "Texts have none.",
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        documents = self.fields["documents"]
        assert isinstance(documents, forms.ModelMultipleChoiceField)
        documents.queryset = Document.objects.filter(project=project).usable()
        count = documents.queryset.count()
        self.fields["everything"].label = f"All documents that are read and not withdrawn ({count})"
        self.fields["everything"].initial = count == 1
        if count > LISTED:
            documents.help_text = f"The newest {LISTED} of {count} are listed."
            documents.widget.choices = [(each.pk, str(each)) for each in documents.queryset[:LISTED]]
        self.servers = {server.pk: server for server in ModelServer.objects.all()}
        choices = [
            ("extractive", "Questions and answers, without a model"),
            ("verbatim", "The passages as texts, for continued pre-training"),
        ]
        for server in self.servers.values():
            choices += [(f"{server.pk}:{name}", f"Questions by {name} on {server}") for name in server.model_names]
        self._choose("model", choices)
        self.own = {own.pk: own for own in Recipe.objects.filter(project=project).offered()}
        shipped = [kind for kind in recipes.KINDS.values() if kind.key not in SAMPLES]
        self._choose(
            "recipe",
            [(kind.key, kind.title) for kind in shipped]
            + [(str(own.pk), f"{own} ({own.title})") for own in self.own.values()],
        )
        if not self.servers:
            self.fields["recipe"].help_text = "No model server is registered yet; an operator does it."

    def _choose(self, name: str, choices: list[tuple[str, str]]) -> None:
        chooser = self.fields[name]
        assert isinstance(chooser, forms.ChoiceField)
        chooser.choices = choices

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if not data.get("everything") and not data.get("documents") and "documents" not in self.errors:
            self.add_error("documents", "Choose at least one document, or all of them.")
        return data

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `start_generation`."""
        chosen, wordings = self.cleaned_data["model"], self.cleaned_data["wordings"]
        field = self.fields["documents"]
        assert isinstance(field, forms.ModelMultipleChoiceField)
        assert field.queryset is not None
        documents = list(field.queryset if self.cleaned_data["everything"] else self.cleaned_data["documents"])
        gaps = {"only_gaps": True} if self.cleaned_data["only_gaps"] else {}
        if chosen == "extractive":
            options = {"wordings_per_fact": wordings, **gaps}
            return {"documents": documents, "generator": chosen, "server": None, "options": options}
        if chosen == "verbatim":
            return {"documents": documents, "generator": chosen, "server": None, "options": gaps}
        server, _, name = chosen.partition(":")
        wanted = self.cleaned_data["recipe"] or "qa"
        told: dict[str, Any] = {"model": name, **gaps}
        own = self.own.get(int(wanted)) if wanted.isdecimal() else None
        if own is None:
            uses = "wordings" in recipes.KINDS[wanted].uses
            told["recipe"] = {"kind": wanted, "settings": {"wordings": min(wordings, 8)} if uses else {}}
        return {
            "documents": documents,
            "generator": "llm",
            "server": self.servers[int(server)],
            "options": told,
            "recipe": own.newest if own else None,
        }


class ImportForm(StyledMixin, forms.Form):
    """A file of examples, or its text."""

    file = forms.FileField(required=False, help_text="JSON Lines, or one JSON array; UTF-8.")
    text = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 6, "class": "font-monospace", "spellcheck": "false"}),
        label="… or paste it here",
    )
    format = forms.ChoiceField(choices=[("", "find out"), *((name, name) for name in FORMATS)], required=False)

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if not data.get("file") and not (data.get("text") or "").strip():
            raise forms.ValidationError("Choose a file or paste examples.")
        return data


class ConversationForm(StyledMixin, forms.Form):
    """An example of one question and one answer, with an optional system message."""

    system = forms.CharField(
        required=False, widget=forms.Textarea(attrs={"rows": 2}), help_text="Leave empty unless the model needs a role."
    )
    question = forms.CharField(widget=forms.Textarea(attrs={"rows": 3}))
    answer = forms.CharField(widget=forms.Textarea(attrs={"rows": 6}))

    @property
    def content(self) -> dict[str, Any]:
        data = self.cleaned_data
        system = [{"role": "system", "content": data["system"]}] if data["system"] else []
        turns = [{"role": "user", "content": data["question"]}, {"role": "assistant", "content": data["answer"]}]
        return {"messages": [*system, *turns]}


class TurnsForm(StyledMixin, forms.Form):
    """A conversation of several turns: one field each, in the order they stand in."""

    def __init__(self, *args: Any, messages: list[dict[str, str]], **kwargs: Any) -> None:
        self.messages = messages
        super().__init__(*args, **kwargs)
        for number, message in enumerate(messages):
            widget = forms.Textarea(attrs={"rows": 3})
            label = f"{number + 1}. {message['role']}"
            self.fields[f"turn_{number}"] = forms.CharField(label=label, initial=message["content"], widget=widget)
        for field in self.fields.values():
            field.widget.attrs.setdefault("class", "form-control")

    @property
    def content(self) -> dict[str, Any]:
        turns = [
            {"role": message["role"], "content": self.cleaned_data[f"turn_{number}"]}
            for number, message in enumerate(self.messages)
        ]
        return {"messages": turns}


class PreferenceForm(StyledMixin, forms.Form):
    """A prompt with a better and a worse answer."""

    prompt = forms.CharField(widget=forms.Textarea(attrs={"rows": 3}))
    chosen = forms.CharField(label="Better answer", widget=forms.Textarea(attrs={"rows": 4}))
    rejected = forms.CharField(label="Worse answer", widget=forms.Textarea(attrs={"rows": 4}))

    @property
    def content(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in ("prompt", "chosen", "rejected")}


class TextForm(StyledMixin, forms.Form):
    """A text that is learnt as it stands."""

    text = forms.CharField(widget=forms.Textarea(attrs={"rows": 14}))

    @property
    def content(self) -> dict[str, Any]:
        return {"text": self.cleaned_data["text"]}


class QualityRulesForm(StyledMixin, forms.Form):
    """What a project lets into a version."""

    blocking = forms.MultipleChoiceField(
        choices=list(REASONS.items()),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        label="No example is sealed of which it is true that",
    )
    max_tokens = forms.IntegerField(
        min_value=16,
        max_value=131_072,
        label="Tokens a training row may have",
        help_text="Longer ones are told here; four letters are taken for a token. A run cuts them, or leaves them out.",
    )
    finds_names = forms.BooleanField(
        required=False,
        label="Look for names of people and places too",
        help_text="A model of English guesses them, a hundred examples a second.",
    )


class SealForm(StyledMixin, forms.Form):
    """How much is set apart for testing."""

    validation_share = forms.FloatField(
        min_value=0,
        max_value=0.5,
        initial=0.1,
        label="Validation share",
        help_text="The share of sections never trained: shows whether the model generalises.",
    )
    recall_share = forms.FloatField(
        min_value=0,
        max_value=1,
        initial=1,
        label="Recall share",
        help_text="Of facts with three wordings or more, the share asked later in a wording that was not trained.",
    )
    note = forms.CharField(required=False, max_length=300, help_text="What is new in this version.")


class ModelServerForm(forms.ModelForm):
    """What an operator types of a model server: its key is taken and never shown again."""

    key = forms.CharField(
        required=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text="Kept sealed. Left empty, the one that was entered before stays.",
    )
    forgets_key = forms.BooleanField(required=False, label="Forget the key that was entered")

    class Meta:
        model = ModelServer
        fields = [
            "name", "provider", "base_url", "key_variable", "offered", "context_window", "parallel", "price_in",
            "price_out", "takes_models",
        ]  # fmt: skip

    def clean_key(self) -> str:
        key = str(self.cleaned_data["key"]).strip()
        if not key.isascii() or re.search(r"\s", key):
            raise forms.ValidationError("The key holds letters that no key has. Copy it again.")
        if not key and self.instance.sealed_key and "base_url" in self.changed_data:
            raise forms.ValidationError("Enter the key again: the one that is kept goes to no other address.")
        return key


class LabelStudioServerForm(forms.ModelForm):
    """What an operator types of a Label Studio: its token is taken and never shown again."""

    token = forms.CharField(
        required=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text="A personal access token or, where the organisation allows it, a legacy token. Left empty, the one "
        "that was entered before stays.",
    )

    class Meta:
        model = LabelStudioServer
        fields = ["name", "url", "browser_url", "portal_url", "hook_url", "allows_import"]

    def clean_token(self) -> str:
        token = str(self.cleaned_data["token"]).strip()
        if not token.isascii():
            raise forms.ValidationError("The token holds letters that no token has. Copy it again.")
        if problem := token_problem(token) if token else "":
            raise forms.ValidationError(problem)
        if not token and not self.instance.sealed_token:
            raise forms.ValidationError("Enter the token; without it nothing can be sent.")
        if not token and "url" in self.changed_data:
            raise forms.ValidationError("Enter the token again: the one that is kept goes to no other address.")
        return token


class LabelStudioSendForm(StyledMixin, forms.Form):
    """Which examples go to which Label Studio."""

    server = forms.ModelChoiceField(LabelStudioServer.objects.all(), label="Label Studio", empty_label=None)
    state = forms.ChoiceField(
        choices=[(State.DRAFT, "those that nobody has decided yet"), ("", "all"), *State.choices[1:]],
        required=False,
        label="Examples",
        help_text="What is there already is not sent twice: its text is brought up to date where nobody has judged it.",
    )
    document = forms.ModelChoiceField(
        Document.objects.none(), required=False, empty_label="of every document", label="Of the document"
    )
    text = forms.CharField(required=False, max_length=200, label="That hold these words")

    def __init__(self, *args: Any, dataset: Dataset, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chooser = self.fields["document"]
        assert isinstance(chooser, forms.ModelChoiceField)
        chooser.queryset = Document.objects.filter(examples__dataset=dataset).distinct().order_by("name")

    @property
    def arguments(self) -> dict[str, Any]:
        document = self.cleaned_data["document"]
        chosen = {"state": self.cleaned_data["state"], "text": self.cleaned_data["text"]}
        return {
            "server": self.cleaned_data["server"],
            "chosen": {**chosen, "document": str(document.pk) if document else ""},
        }


class LabelStudioServerChoiceForm(StyledMixin, forms.Form):
    """The server whose project is to be imported."""

    server = forms.ModelChoiceField(
        LabelStudioServer.objects.filter(allows_import=True), label="Label Studio", empty_label=None
    )


class LabelStudioProjectForm(StyledMixin, forms.Form):
    """Which of the projects found, and what its tasks hold."""

    remote_id = forms.TypedChoiceField(coerce=int, label="Project")
    layout = forms.ChoiceField(
        choices=[(layout.name, layout.title) for layout in LAYOUTS.values() if layout is not TURNS],
        label="Its tasks hold",
    )

    def __init__(self, *args: Any, entry: LabelStudioImport, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chooser = self.fields["remote_id"]
        assert isinstance(chooser, forms.TypedChoiceField)
        chooser.choices = [
            (found["id"], f"{found['title']} ({found['tasks']} task{'' if found['tasks'] == 1 else 's'})")
            for found in entry.found
        ]


class LabelStudioMappingForm(forms.Form):
    """Which text of a task is which field of an example."""

    def __init__(self, *args: Any, entry: LabelStudioImport, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        layout = LAYOUTS[entry.layout]
        guessed = guess(layout, entry.names)
        for field in layout.fields:
            choices = [("", "nothing" if not field.required else "choose"), *((name, name) for name in entry.names)]
            self.fields[field.name] = forms.ChoiceField(
                choices=choices, required=field.required, label=field.title, initial=guessed[field.name]
            )
            style(self.fields[field.name])
