"""participants.tsv as spreadsheets and editors save it."""

import pytest

from swift_bids.inputs.tsv_tables import participant_ids, read_table

AGE = {"participant_id": ["sub-01"], "age": ["30"]}


@pytest.mark.parametrize(
    ("content", "cells"),
    [
        (b"participant_id\tage\r\nsub-01\t30\r\n", AGE),
        (b"participant_id\tage\rsub-01\t30\r", AGE),
        ("\ufeffparticipant_id\tage\nsub-01\t30\n".encode(), AGE),
        ("participant_id\tage\nsub-01\t30\n".encode("utf-16"), AGE),
        (b"participant_id \t age\n sub-01 \t 30 \n", AGE),
        (b"participant_id\tage\t\nsub-01\t30\t\n", AGE),
        (b"participant_id\tage\n\nsub-01\t30\n\n", AGE),
        (b"Participant_ID\tage\nsub-01\t30\n", AGE),
        (b"age\tparticipant_id\n30\tsub-01\n", AGE),
        (b'"participant_id"\t"age"\n"sub-01"\t"30"\n', AGE),
        (b"participant_id\tage\nsub-01\n", AGE | {"age": [""]}),
        (b"participant_id\tage", {"participant_id": [], "age": []}),
        (b"participant_id\tage\nsub-01\tn/a\n", AGE | {"age": ["n/a"]}),
        (b"participant_id\tage\nsub-01\tNA\n", AGE | {"age": ["NA"]}),
        (b"participant_id\tage\n007\t30\n", AGE | {"participant_id": ["007"]}),
    ],
)
def test_tables_that_are_read_without_a_word(tmp_path, content, cells, caplog):
    file = tmp_path / "participants.tsv"
    file.write_bytes(content)
    assert read_table(file, "participant_id").to_dict("list") == cells
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("content", "cells", "warning"),
    [
        (b"participant_id,age\nsub-01,30\n", AGE, "is separated by commas instead of tabs"),
        (b"participant_id;age\nsub-01;30\n", AGE, "is separated by semicolons instead of tabs"),
        ("participant_id\tage\nsub-01\t30\xe4\n".encode("cp1252"), AGE | {"age": ["30ä"]}, "UTF-8"),
        (b"participant_id\tage\nsub-01\t30\tx\n", AGE, "has rows with more cells than its header"),
        (
            b"participant_id\tparticipant_id\tage\nsub-01\tCQ2\t30\n",
            AGE | {"participant_id.1": ["CQ2"]},
            "has several columns named participant_id",
        ),
        (
            b"participant_id\tage\tage\nsub-01\t30\t31\n",
            AGE | {"age.1": ["31"]},
            "has several columns named age; the second one is called age.1",
        ),
    ],
)
def test_tables_that_are_read_with_a_warning(tmp_path, content, cells, warning, caplog):
    file = tmp_path / "participants.tsv"
    file.write_bytes(content)
    assert read_table(file, "participant_id").to_dict("list") == cells
    assert f"{file}: " in caplog.text
    assert warning in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (b"subject\tage\nsub-01\t30\n", "has no column participant_id, but subject, age; rename"),
        (b"", "its columns are not used (No columns to parse from file)"),
        (b"\x89PNG\r\n\x1a\n\x00\x81", "its columns are not used ("),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, content, warning, caplog):
    file = tmp_path / "participants.tsv"
    file.write_bytes(content)
    assert read_table(file, "participant_id") is None
    assert warning in caplog.text


def test_ids_with_and_without_prefix():
    import pandas as pd

    ids = pd.Series(["sub-01", "01", "SUB-01", "sub_01", "Sub-a"])
    assert participant_ids(ids).tolist() == ["sub-01", "sub-01", "sub-01", "sub-01", "sub-a"]
