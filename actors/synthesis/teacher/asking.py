"""Asks a chat model for an instruction, each time about something else: for servers that take no raw prompts."""

from __future__ import annotations

from actors.synthesis.teacher.draws import pick

SUBJECTS = (
    "cooking", "a journey by train", "pets", "gardening", "sleep", "the weather", "music", "a birthday", "moving house", "job interviews",
    "history", "astronomy", "the sea", "languages", "sports", "board games", "films", "novels", "poetry", "painting", "neighbours",
    "friendship", "raising children", "grandparents", "school", "money and saving", "health and exercise", "first aid", "cars", "bicycles",
    "public transport", "a holiday", "the mountains", "cities", "farming", "animals in the wild", "insects", "the human body", "medicine",
    "technology at home", "the internet", "privacy", "electricity", "chemistry in the kitchen", "physics of everyday things", "economics",
    "politics and voting", "law and contracts", "philosophy", "psychology", "religion and festivals", "fashion", "architecture",
    "repairs at home", "photography", "dancing", "theatre", "jokes", "riddles", "volunteering",
)  # fmt: skip
PEOPLE = (
    "a child of ten", "a teenager", "a student", "a young parent", "a nurse", "a teacher", "a farmer", "a shop assistant", "a cook",
    "an engineer", "a retired sailor", "somebody who is new in the country", "a manager", "an artist", "a mechanic", "a lonely person",
    "a curious traveller", "a volunteer", "a writer", "an athlete",
)  # fmt: skip
WANTS = (
    "asks for a fact", "asks why something is so", "asks how to do something", "asks for advice on a decision", "wants a plan",
    "wants ideas", "wants a short story or a poem", "wants two things compared", "wants the assistant to play a part",
    "asks a question that takes some reasoning", "wants something explained in simple words", "wants a recommendation",
    "asks what would happen if", "wants help with what to say to somebody",
)  # fmt: skip


def question(*of: object) -> str:
    """What the model is asked, drawn by the hash of `of`."""
    subject, person, want = (pick(choices, name, *of) for name, choices in (("about", SUBJECTS), ("who", PEOPLE), ("wants", WANTS)))
    return (
        f"Write what {person} says to a voice assistant. The subject is {subject}, and the person {want}. "
        "Be specific, natural and different from what anybody would write first. "
        "One or two spoken sentences; give these words alone, without quotation marks and without an answer."
    )
