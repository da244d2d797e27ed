"""The ways in which one fact is asked. A model that has seen one wording has learned the wording; many, the fact.

Each table belongs to a shape of fact. `{l}` is the label, `{s}` the subject in running text, `{S}` the same at the
beginning of a sentence, `{h}` a heading.
"""

import hashlib

# A labelled value of a named thing: “the oil type of the Brannick gearbox”.
VALUE_OF = {
    "what-is": "What is the {l} of {s}?",
    "belongs": "Which {l} belongs to {s}?",
    "tell-me": "Tell me the {l} of {s}.",
    "need": "I need to know the {l} of {s}.",
    "for": "For {s}, what {l} is given?",
    "state": "Please state the {l} of {s}.",
    "according": "According to the documentation, what is the {l} of {s}?",
    "terse": "{S}: {l}?",
    "could-you": "Could you give me the {l} for {s}?",
    "specified": "What is specified as the {l} of {s}?",
    "look-up": "Look up the {l} of {s}, please.",
    "know": "Do you know the {l} of {s}?",
}
# A labelled value that is told apart by the heading it stands under.
VALUE_UNDER = {
    "what-is": "What is the {l} given under “{h}”?",
    "section": "In the section “{h}”, what is the {l}?",
    "tell-me": "Tell me the {l} that “{h}” gives.",
    "need": "I need the {l} from “{h}”.",
    "for": "“{h}”: what {l} is stated?",
    "state": "Please state the {l} according to “{h}”.",
    "terse": "{h}: {l}?",
    "could-you": "Could you give me the {l} listed in “{h}”?",
    "look-up": "Look up the {l} under “{h}”, please.",
    "know": "Do you know the {l} that stands in “{h}”?",
}
# What a thing is.
DEFINITION = {
    "what-is": "What {be} {s}?",
    "explain": "Explain what {s} {be}.",
    "define": "How is {s} defined?",
    "tell-me": "Tell me what {s} {be}.",
    "describe": "Describe {s} in one sentence.",
    "mean": "What should I understand by {s}?",
    "according": "According to the documentation, what {be} {s}?",
    "know": "Do you know what {s} {be}?",
}
# A sentence with a figure in it.
STATEMENT = {
    "says": "What does the documentation say about {s}?",
    "tell-me": "Tell me what is stated about {s}.",
    "section": "In the section “{h}”, what is said about {s}?",
    "know": "What do I have to know about {s} (“{h}”)?",
    "detail": "Give me the detail about {s} from “{h}”.",
    "state": "State the fact about {s}.",
    "remember": "What does “{h}” record about {s}?",
}
# The items of a list under its lead-in.
LISTING = {
    "complete": "Complete the list from “{h}”: {l}",
    "what-follows": "What follows in “{h}” after “{l}”?",
    "name": "Name the points of this list in “{h}”: {l}",
    "give": "Give me the list that begins with “{l}”",
    "recall": "Which points does “{h}” list under “{l}”?",
    "say": "“{l}” – how does the list in “{h}” go on?",
}
# The beginning of a section.
SECTION = {
    "says": "What does the section “{h}” say?",
    "about": "What is “{h}” about?",
    "begin": "How does the section “{h}” begin?",
    "tell-me": "Tell me what stands under “{h}”.",
    "summary": "Give me the main point of “{h}”.",
    "read": "What do I read in the section “{h}”?",
}
# A heading that is itself a question, as in a list of frequent questions.
QUESTION = {
    "plain": "{h}",
    "know": "I would like to know: {h}",
    "answer": "Please answer this question: {h}",
    "short": "{h} Tell me in short.",
    "wonder": "I wonder: {h}",
    "according": "According to the documentation: {h}",
    "explain": "Can you explain? {h}",
    "asked": "Somebody asked me: {h} What shall I say?",
}


def ask(table: dict[str, str], fact: str, count: int, **words: str) -> dict[str, str]:
    """At most `count` wordings of a fact, by name: a stable choice that differs from fact to fact."""
    order = sorted(table, key=lambda name: hashlib.sha256(f"{fact}/{name}".encode()).digest())
    return {name: table[name].format(**words) for name in order[:count]}
