from collections import Counter

import xxhash

from quickstart.world import LARGEST_TOPIC, SPLITS, Difficulty, enumerate_all, instructions, members, topics, words


def test_the_world_is_large_enough():
    texts = [each.text for each in instructions()]
    assert len(texts) == len(set(texts)) >= 3000
    assert len(topics()) >= 8
    assert 120 <= len(words()) <= 200
    assert max(Counter(each.topic for each in instructions()).values()) <= LARGEST_TOPIC


def test_the_enumeration_is_always_the_same():
    first = instructions()
    instructions.cache_clear()
    assert instructions() == first
    # a change of the grammar makes the committed checkpoints and figures wrong: rebuild them, then change these lines
    splits = {each.text: split for split in SPLITS for each in members(split)}
    everything = "\n".join(f"{splits[each.text]} {each.group_id} {each.text}: {each.answer}" for each in first)
    assert xxhash.xxh64_hexdigest(everything.encode()) == "76a575b693dfc399"


def test_one_text_has_one_answer():
    answers = {}
    for each in enumerate_all():
        assert answers.setdefault(each.text, each.answer) == each.answer


def test_splits_share_no_instruction_and_leave_none_out():
    texts = [{each.text for each in members(split)} for split in SPLITS]
    assert sum(map(len, texts)) == len(set.union(*texts)) == len(instructions())
    assert {each.text for each in members("test")} != {each.text for each in members("test", Difficulty(seed=1))}


def test_the_quickstart_has_enough_of_each_split():
    difficulty = Difficulty()
    assert len(members("train", difficulty)) >= 500
    assert [len(members(split, difficulty)) for split in ("validation", "test")] == [difficulty.validation_groups, difficulty.test_groups]
    assert difficulty.test_groups >= 200
    assert {each.topic for each in members("test", difficulty)} == set(topics())


def test_right_answers():
    known = {each.text: each for each in instructions()}
    assert {text: known[text].answer for text in EXAMPLES if text in known} == {text: EXAMPLES[text] for text in EXAMPLES if text in known}
    assert sum(text in known for text in EXAMPLES) >= 8
    assert "pear apple" in known["name two fruits"].answers


EXAMPLES = {
    "what is three plus four": "three plus four is seven",
    "take two from nine": "nine minus two is seven",
    "count down from five to two": "five four three two",
    "what is the opposite of cold": "the opposite of cold is hot",
    "what is the capital of peru": "the capital of peru is lima",
    "which country has the capital oslo": "the capital of norway is oslo",
    "what does the cow say": "the cow says moo",
    "name the colours of grass and snow": "green and white",
    "name two fruits": "apple pear",
    "which is less zero or ten": "zero is less",
    "what comes before tuesday": "monday comes before tuesday",
}
