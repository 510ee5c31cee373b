"""What is stored of long and unusual texts, on every database."""

import json

import pytest
from sqlalchemy import text

from hpo.search.ledger.endings import Ending
from hpo.specs import Fault, Outcome

ODD = "NUL \x00, half a pair \ud83d, emoji \U0001f511, \xe4 and \x1b"


@pytest.mark.parametrize("length", [3_000, 70_000])
def test_long_and_odd_texts_of_an_ending_lose_no_trial(worker, spec, database_url, length):
    ledger = worker(spec, database_url)
    reason, trace = f"{ODD} {'x' * length}", ODD * 10 + "\U0001f511" * length
    fault = Fault(outcome=Outcome.CRASHED, reason=reason, traceback=trace)
    asked = ledger.ask()
    ledger.finish(asked, Ending(outcome=Outcome.CRASHED, reason=reason, fault=fault))
    stored = next(t for t in ledger.trials() if t.number == asked.number).user_attrs
    assert stored["outcome"] == "crashed"
    for kept, whole in ((stored["reason"], reason), (stored["traceback"], fault.traceback)):
        if database_url.get_backend_name() != "mysql" or len(json.dumps(whole)) <= 65_535:
            assert kept == whole
        else:
            assert kept.endswith("...") and whole.startswith(kept.removesuffix("..."))
            assert 65_500 < len(json.dumps(kept)) <= 65_535
    assert ledger.ask() is not None, "the retry"


def test_a_database_of_another_character_set_stores_the_same(worker, spec, mysql_url):
    ledger = worker(spec, mysql_url)
    with ledger.leases._engine.begin() as connection:
        for table in ("trial_user_attributes", "studies", "hpo_leases"):
            connection.execute(text(f"ALTER TABLE {table} CONVERT TO CHARACTER SET latin1"))
    asked = ledger.ask()
    ledger.finish(asked, Ending(outcome=Outcome.DATA_ERROR, reason=ODD))
    stored = next(t for t in ledger.trials() if t.number == asked.number)
    assert stored.user_attrs["reason"] == ODD


def test_scores_that_are_too_long_for_a_column_become_a_text(worker, spec, mysql_url):
    ledger = worker(spec, mysql_url)
    asked = ledger.ask()
    ledger.finish(asked, Ending(outcome=Outcome.COMPLETE, reason="done", value=1.0))
    many = {f"label {number}": 0.5 for number in range(5000)}
    ledger.study._storage.annotate(asked.trial_id, {"score": many, "few": {"a": 0.5}})
    stored = next(t for t in ledger.trials() if t.number == asked.number).user_attrs
    assert stored["few"] == {"a": 0.5}
    assert stored["score"].startswith('{"label 0": 0.5') and stored["score"].endswith("...")
