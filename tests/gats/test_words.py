"""A table of words: every word of training has an id of its own, every other word the same one."""

import pytest

from factotum.core.checks import UserError
from factotum.gats.words import PAD, UNKNOWN, WordTable, padded


def test_words_have_ids_of_their_own(tmp_path):
    table = WordTable.of(["go to the ball", "Open the door."])
    ids, there = table(["open the ball", "go, crimson door go!"])
    assert len(set(table.ids.values())) == len(table.words) == 6
    assert table.size == 8
    assert min(table.ids.values()) > UNKNOWN > PAD
    assert ids[1].tolist() == [table.ids["go"], UNKNOWN, table.ids["door"], table.ids["go"]]
    assert there.tolist() == [[True] * 3 + [False], [True] * 4]
    table.save(tmp_path / "words.json")
    again = WordTable.load(tmp_path / "words.json")
    assert again.ids == table.ids
    assert again(["open the ball"])[0].tolist() == ids[:1, :3].tolist()


def test_what_does_not_fit_is_refused(tmp_path):
    table = WordTable.of(["go to the ball"], length=3)
    with pytest.raises(UserError, match="expected 1 to 3 ids, got 4"):
        table(["go to the ball"])
    with pytest.raises(UserError, match="expected 1 to 3 ids, got 0"):
        padded([[1], []], 3)
    (tmp_path / "words.json").write_text("[]")
    with pytest.raises(UserError, match="expected keys 'words' and 'length'"):
        WordTable.load(tmp_path / "words.json")
