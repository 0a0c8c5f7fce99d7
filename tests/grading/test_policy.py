r"""Late work: what counts as late, what it costs, who has longer; and that marks themselves stay as they are."""

import base64
import csv
import re
from pathlib import Path

import pytest

from coursekit.errors import CourseError
from coursekit.grading import collect, policy, pseudonyms
from coursekit.grading.export import export
from tests.grading.batches import SECRET, batch, right

RULES = """
[late]
grace_minutes = 15
per_day = 0.1
most = 0.3
closes_after_days = 7
[due]
06_lora = 2026-05-01T12:00:00+02:00
"""


#: Who is in the batch.
HERE = [collect.Entry(id, "06_lora", "ok", "", (), {}) for id in ("ada", "bob", "cy", "dee", "eve")]


def rules(tmp_path, text=RULES, **files):
    (tmp_path / "policy.toml").write_text(text)
    for name, content in files.items():
        (tmp_path / f"{name}.csv").write_text(content)
    return policy.read(tmp_path, HERE)


def test_the_policy_that_teachers_read_is_one(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "teaching.md"
    (text,) = re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    late = rules(tmp_path, text).late("ada", "06_lora", "2026-05-02T23:00:00+02:00")
    assert (late.days, late.kept) == (1, 0.9)


@pytest.mark.parametrize("submitted, days, kept", [
    ("2026-05-01T10:00:00+00:00", 0, 1.0),  # on the minute: the offset counts
    ("2026-05-01T10:15:00+00:00", 0, 1.0), ("2026-05-01T10:15:01+00:00", 1, 0.9),
    ("2026-05-02T10:00:00+00:00", 1, 0.9), ("2026-05-02T10:00:01+00:00", 2, 0.8),
    ("2026-05-05T10:00:00+00:00", 4, 0.7), ("2026-05-08T10:00:00+00:00", 7, 0.7),
    ("2026-05-08T10:00:01+00:00", 8, 0.0), ("2026-04-01T00:00:00+00:00", 0, 1.0), (None, 0, 1.0),
])  # fmt: skip
def test_each_day_that_has_begun_costs(tmp_path, submitted, days, kept):
    late = rules(tmp_path).late("ada", "06_lora", submitted)
    assert (late.days, late.kept) == (days, pytest.approx(kept))
    assert late.points(10) == pytest.approx(10 * kept)


def test_extensions_and_better_known_times(tmp_path):
    late = "2026-05-03T09:00:00+00:00"
    found = rules(
        tmp_path,
        RULES + "07_quantization = 2026-06-01T12:00:00+02:00\n",
        extensions="id,notebook,days,due\nada,,2,\nbob,06_lora,,2026-05-04T00:00+02:00\ncy,07_quantization,9,\n",
        submitted="id,notebook,time\ndee,,2026-05-01T09:00:00+00:00\n",
    )
    days = [found.late(id, "06_lora", late).days for id in ("ada", "bob", "cy", "dee", "eve")]
    assert days == [0, 0, 2, 0, 2]


def test_what_is_said_of_one_notebook_goes_before_what_is_said_of_all(tmp_path):
    late = "2026-05-03T09:00:00+00:00"
    found = rules(
        tmp_path,
        extensions="id,notebook,days,due\nada,,9,\nada,06_lora,0,\nbob,06_lora,9,\nbob,,0,\n",
        submitted="id,notebook,time\ncy,,2026-05-01T09:00:00Z\ncy,06_lora,2026-05-02T09:00:00Z\n",
    )
    assert [found.late(id, "06_lora", late).days for id in ("ada", "bob", "cy")] == [2, 0, 1]


EXTENSIONS = "id,notebook,days,due\n"


@pytest.mark.parametrize("files, said", [
    ({"extensions": "id,days\nadda,3\n"}, "extensions.csv, line 2: unknown submission 'adda'; did you mean 'ada'?"),
    ({"extensions": "id,days\nada,3\nada,4\n"}, "extensions.csv, line 3: ada is there twice"),
    ({"extensions": "id,notebook,days\nada,06-lora,3\n"}, "unknown notebook '06-lora'; did you mean '06_lora'?"),
    ({"extensions": "id,notebok,days\nada,06_lora,3\n"},
     "unknown column in extensions.csv 'notebok'; did you mean 'notebook'?"),
    ({"submitted": "id, notebook,time\nada,06_lora,2026-05-01T09:00:00Z\n"}, "column in submitted.csv ' notebook'"),
    ({"submitted": "id,time\nzed,2026-05-01T09:00:00Z\n"}, "submitted.csv, line 2: unknown submission 'zed'"),
    ({"extensions": "id,days\nada,1e8\n"}, "days must be a number from 0 to 1000, such as 2.5; got '1e8'"),
    ({"extensions": "id,due\nada,9999-12-31T00:00Z\n"}, "is not in a year of any course"),
    ({"extensions": EXTENSIONS + "ada,,,"}, "extensions.csv, line 2: give days, such as 3, or due"),
    ({"extensions": EXTENSIONS + "ada,,3,2026-05-04T12:00+02:00"}, "give days"),
    ({"extensions": EXTENSIONS + "ada,,,soon"}, "'soon' is not a time such as"),
    ({"extensions": EXTENSIONS + "ada,,,2026-05-04T12:00"}, "a time needs its offset"),
    ({"extensions": EXTENSIONS + "ada,,x,"}, "must be a number"),
    ({"text": "[late]\nper_day = 2"}, "per_day must be a number from 0 to 1; got 2"),
    ({"text": "[late]\nper_day = true"}, "per_day must be a number from 0 to 1; got True"),
    ({"text": "[late]\nper_dya = 0.1"}, "unknown setting of [late] in policy.toml 'per_dya'; did you mean 'per_day'?"),
    ({"text": "[later]"}, "unknown table in policy.toml 'later'; did you mean 'late'?"),
    ({"text": "[due]\n06_lora = 2026-05-01T12:00:00"}, "a time needs its offset"),
    ({"text": "[due]\n06-lora = 2026-05-01T12:00:00Z"}, "[due] has no 06_lora, only 06-lora"),
    ({"text": "late = 3"}, "late must be a table"),
    ({"text": "[late]\nper_day = 0.1"}, "[due] has no 06_lora, only nothing"),
    ({"text": "due = 4"}, "due must be a table, [due]; got 4"),
    ({"text": "[due]\n06_lora = 9999-12-31T12:00:00Z"}, "is not in a year of any course"),
    ({"text": "[due]\n06_lora = 2026-05-01"}, "a time needs its offset"),
    ({"text": "[late"}, "policy.toml is not valid TOML"),
])  # fmt: skip
def test_what_is_not_understood_is_said_and_never_counts_for_nobody(tmp_path, files, said):
    with pytest.raises(CourseError) as error:
        rules(tmp_path, **files)
    assert said in str(error.value)


def test_an_extension_without_a_policy_is_said(tmp_path):
    (tmp_path / "extensions.csv").write_text("id,days\nada,3\n")
    with pytest.raises(CourseError, match="extensions.csv counts for nothing without policy.toml"):
        policy.read(tmp_path, HERE)


def test_without_a_policy_nothing_is_late(tmp_path):
    assert policy.read(tmp_path, HERE) is None
    assert rules(tmp_path, "").late("ada", "06_lora", "2030-01-01T00:00:00+00:00") == policy.Late()


def test_lateness_counts_at_export_and_nowhere_else(tmp_path):
    out = batch(tmp_path, {"ada": {"exercises": right(), "submitted": "2026-05-02T09:00:00+00:00"}, "bob": right()})
    collect.collect(out)
    before = (out / "gradebook.csv").read_bytes()
    rules(out)
    collect.collect(out)
    assert (out / "gradebook.csv").read_bytes() == before
    with export(out, "csv").open(newline="") as file:
        rows = {r["id"]: (r["points"], r["before_lateness"], r["days_late"]) for r in csv.DictReader(file)}
    assert rows == {"ada": ("5.4", "6", "1"), "bob": ("6", "6", "0")}


def test_variants_and_pseudonyms_follow_from_id_and_secret():
    ids = [f"s{i}" for i in range(200)]
    for function in (pseudonyms.variant, pseudonyms.pseudonym):
        first = [function(SECRET, id) for id in ids]
        assert first == [function(SECRET, id) for id in ids] and len(set(first)) == len(ids)
        assert not set(first) & {function(b"another", id) for id in ids}
    assert all(0 <= pseudonyms.variant(SECRET, id) < 2**31 for id in ids)
    # Neither gives the other away.
    bits = [base64.b32decode(pseudonyms.pseudonym(SECRET, id)[2:].upper() + "======") for id in ids]
    assert not any(
        int.from_bytes(b[:4], "big") >> 1 == pseudonyms.variant(SECRET, id) for b, id in zip(bits, ids, strict=True)
    )
