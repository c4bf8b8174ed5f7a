"""The cards of the lessons: what a learner does is kept, what is stored teaches without a kernel, nothing raises."""

import csv
import functools
import gc
import json
import re
import resource
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from frontend import budget_slider, run_cell, scene, tell
from hostile import ANSWERS, THINGS, raising
from jupyter_client.manager import start_new_kernel
from oracles import bare

import efisher_teach as ef
from efisher_teach.browser import cards
from efisher_teach.browser.page import MIME, SWITCH
from efisher_teach.browser.record import RECORD, Record
from efisher_teach.lessons.course import EXERCISES, QUESTIONS, Question, Verdict, judge, source

PLAIN = Question("plain", "Which?", "It is <b>. See `C`.", options=("a < b", "c & d"), answer=2)
NUMBER = Question("number", "How many?", "Seven.", low=0, high=10, answer=7, within=1, unit="of them")


@pytest.fixture(autouse=True)
def fresh():
    """A record as after the kernel's start."""
    RECORD.clear()


def stored(card):
    data, _ = card._repr_mimebundle_()
    return data


def test_the_answer_is_not_in_the_browser_before_the_guess():
    card, question = ef.predict("along −g"), QUESTIONS["along −g"]
    assert question.because not in card.html + json.dumps(card.form)
    assert card.form == {"options": list(question.options), "sure": 33, "button": "That is my guess"}


@pytest.mark.parametrize(("guess", "mark"), [(1, "✗"), (2, "✓")])
def test_a_guess_opens_the_answer_is_made_once_and_outlives_its_cell(guess, mark):
    for card in (ef.predict(PLAIN), ef.predict(PLAIN)):
        tell(card, guess=guess, sure=80)
        assert mark in card.html
        assert "It is &lt;b&gt;. See <code>C</code>." in card.html
        assert card.form == {}
        guess = 3 - guess
    assert RECORD.guesses == {"plain": {"guess": guess, "sure": 80.0, "right": mark == "✓"}}


@pytest.mark.parametrize(("guess", "right"), [(5.5, False), (6, True), (8, True), (8.5, False)])
def test_a_number_is_right_within_its_bounds(guess, right):
    card = ef.predict(NUMBER)
    assert (card.form["low"], card.form["high"]) == (0, 10)
    tell(card, guess=guess, sure=10)
    assert RECORD.guesses["number"]["right"] is right
    assert f"{guess:.4g} of them" in card.html


def test_a_figure_opens_with_the_guess_and_brings_its_controls():
    figure = ef.Explorer(scene())
    controlled = ef.Explorer(scene, budget=budget_slider())
    card = ef.predict(PLAIN)
    gates = card.opens(figure), card.opens(controlled)
    assert [isinstance(closed, cards.Card) for gate in gates for closed in gate.children] == [True, True]
    tell(card, guess=2, sure=50)
    assert [gate.children for gate in gates] == [(figure,), (controlled.panel,)]
    assert card.opens(figure).children == (figure,)  # a cell that runs again after the guess


def test_a_closed_figure_is_stored_as_picture_and_words(monkeypatch):
    figure = ef.Explorer(scene())
    gate = ef.predict(PLAIN).opens(figure)
    data, metadata = gate._repr_mimebundle_()
    theirs, about = figure._repr_mimebundle_()
    assert data.keys() == theirs.keys()
    assert [kind for kind in data if data[kind] != theirs[kind]] == [cards.LIVE]
    assert data[cards.LIVE]["model_id"] == gate.model_id
    assert metadata["image/png"] == about["image/png"]
    monkeypatch.setenv(SWITCH, "1")
    assert stored(gate)[MIME] == figure.for_page() | {"gate": "plain"}


def test_without_a_kernel_the_answer_is_folded(monkeypatch):
    data = stored(ef.predict(PLAIN))
    assert "It is &lt;b&gt;" in re.search(r"<details>(.*?)</details>", data["text/html"])[1]
    assert "It is" not in data["text/plain"]
    assert "2. c & d" in data["text/plain"]
    assert "<li>a &lt; b</li>" in data["text/html"]
    assert MIME not in data
    monkeypatch.setenv(SWITCH, "1")
    assert stored(ef.predict(PLAIN))[MIME] == {"question": PLAIN._asdict() | {"sure": 50}}


@pytest.mark.parametrize(
    ("guess", "sure", "summary"),
    [
        (1, 80, "0 of 1 guesses right, 0 %; you were 80 % sure on average: surer than right"),
        (2, 90, "1 of 1 guesses right, 100 %; you were 90 % sure on average: about as sure as right"),
        (2, 50, "1 of 1 guesses right, 100 %; you were 50 % sure on average: better than you thought"),
    ],
)
def test_the_summary_follows_the_guesses(guess, sure, summary):
    card = ef.guesses()
    tell(ef.predict(PLAIN), guess=guess, sure=sure)
    assert summary in card.html
    assert summary in stored(card)["text/plain"]


def empirical_fisher(G):
    return G.T @ G / len(G)


def test_a_named_mistake_and_hints_by_the_button():
    card = ef.check(lambda G: G.T @ G, "empirical_fisher")
    assert card.state == "wrong"
    assert "1/n is missing" in card.html
    for place in (1, 2, 3):
        assert card.form == {"button": f"hint {place} of 3"}
        tell(card, more=True)
        assert f"Hint {place}:" in card.html
    assert card.form == {}
    tell(card, more=True)
    assert RECORD.hints["empirical_fisher"] == 3
    assert "Hint 3:" in ef.check(lambda G: G, "empirical_fisher").html  # they stay


def raises(G):
    raise RuntimeError("<script>alert(1)</script>")


def calls_itself(G):
    return calls_itself(G)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (raises, "It stopped with RuntimeError: &lt;script&gt;alert(1)&lt;/script&gt;. In line "),
        (lambda G: raising(SystemExit()), "It stopped with SystemExit"),
        (calls_itself, "It stopped with RecursionError"),
        (lambda G: raising(KeyboardInterrupt()), "It was interrupted"),
        (3, "must be a function; this is of type int"),
        (lambda: 3, "empirical_fisher takes (G); yours takes (nothing)"),
        (lambda G, h: 3, "empirical_fisher takes (G); yours takes (G, h)"),
        (lambda G: "<b>bold</b>", "numbers are expected, this is of type str"),
        (lambda G: {"a": object()}, "numbers are expected, this is of type dict"),
        (lambda G: G.T @ G / len(G) + 0j, "numbers are expected, this is of type ArrayImpl of complex64"),
        (lambda G: np.array([[True] * 2] * 2), "numbers are expected, this is of type bool"),
        (lambda G: [[1, 2], [3]], "numbers are expected, this is of type list"),
        (lambda G: G * float("nan"), "its shape is (1, 2), (2, 2) is expected"),
        (lambda G: (G.T @ G) * float("nan"), "it is not finite"),
        (lambda *rows: ..., "Write it where the stub has"),
        (print, "Write it where the stub has"),
        (lambda G: 1.1 * empirical_fisher(G), "<pre>G = [["),  # the smallest counterexample
    ],
)
def test_no_answer_raises_out_of_the_cell(answer, message):
    card = ef.check(answer, "empirical_fisher")
    assert message in card.html
    assert "<script>" not in card.html + stored(card)["text/html"]
    assert "<b>" not in card.html
    assert card.state != "right"
    assert "<pre>" not in message or re.search("yours: .*expected: ", card.html, re.DOTALL)


KINDS = ("cost_of_a_step", "empirical_fisher", "two_blanks", "three_examples", "summary", "cheaper_form")
KINDS += ("settles", "as_a_length", "turn_away", "advice", "accumulated", "weighted_backward")
NAMED = r"expected|of type|stopped with|not end|interrupted|shape|finite|stub|sentence|yours takes"


@pytest.fixture
def brisk(monkeypatch):
    """A judge who looks at one instance, and not for long; what is given back undoes this."""
    for limit, value in (("guard.SECONDS", 0.1), ("guard.PARTS", 100), ("judge.SIZES", 1)):
        monkeypatch.setattr(f"efisher_teach.lessons.{limit}", value)
    gc.disable()  # what time runs out in may be a callback of the collector, which pytest reports
    yield monkeypatch.undo
    gc.enable()


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("name", KINDS)
def test_no_answer_gets_past_the_judge(name, brisk, capsys):
    exercise = EXERCISES[name]
    instance = exercise.draw(np.random.default_rng(0), 0)
    found = exercise.solution(*instance), exercise.mistakes(*instance)
    solution = functools.wraps(exercise.solution)(lambda *_: found[0])
    known = exercise._replace(draw=lambda *_: instance, solution=solution, mistakes=lambda *_: found[1])
    reference = [line.strip() for line in source(exercise.solution).splitlines()[2:] if line]
    assert len(ANSWERS) >= 300
    for answer in ANSWERS:
        verdict = judge(known, answer)
        said = verdict.says + verdict.shows
        assert verdict.state != "right", verdict
        assert re.search(NAMED, said), verdict
        assert not [line for line in reference if line in said]
        assert len(said) < 6100
    assert len(capsys.readouterr().out) < 10**5
    brisk()
    right = functools.partial(exercise.solution, *instance) if exercise.by_hand else exercise.solution
    assert judge(exercise._replace(draw=lambda *_: instance), right).state == "right"  # nobody has harmed it


@pytest.mark.filterwarnings("ignore:coroutine")
def test_the_record_outlives_every_answer(brisk, tmp_path):
    tell(ef.predict(PLAIN), guess=2, sure=60)
    for answer in ANSWERS:
        card = ef.check(answer, "tight")
        json.dumps([card.words, card.html, card.form, RECORD.attempts], ensure_ascii=False).encode()
        card.close()
    for thing in THINGS:  # in the place of a name, and of a seed
        assert bare(ef.check)(3, thing).state != "right"
        assert bare(ef.check)(3, "tight", seed=thing).state != "right"
    brisk()
    assert ef.check(EXERCISES["tight"].solution).state == "right"
    for file in (tmp_path / "record.html", tmp_path / "record.json"):
        ef.lab_record(file, name="\ud800")
        assert "tight" in file.read_text()
    kept = json.loads(file.read_text())
    assert (kept["attempts"]["tight"]["passed"], kept["guesses"]["plain"]["sure"]) == (True, 60)
    assert kept["attempts"]["tight"]["tries"] > 300


KERNEL = """
import efisher_teach as ef
from efisher_teach.lessons import guard
def leaves(G): exit()
def floods(G):
    while True: print("more " * 1000)
def endless(G):
    print("begun")
    while True: pass
for answer, guard.SECONDS in ((leaves, 60), (floods, 1), (endless, 600)):
    print("!", ef.check(answer, "empirical_fisher").words)
print("! ✗ empirical_fisher: It knows", ef.browser.record.RECORD.attempts["empirical_fisher"]["tries"])
"""


@pytest.mark.heavy
def test_a_real_kernel_survives():
    """Answers that leave, flood, and do not end. It still knows all that was tried."""
    printed = []
    manager, client = start_new_kernel()

    def listen(message):
        printed.append(message["content"].get("text") or str(message["content"].get("traceback", "")))
        if "begun" in printed[-1]:
            manager.interrupt_kernel()

    try:
        client.execute_interactive(KERNEL, timeout=300, output_hook=listen, allow_stdin=False)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    text = "".join(printed)
    assert len(text) < 10**5
    assert "Traceback" not in text, text
    said = re.findall("! ✗ empirical_fisher: (It [^:\n]*)", text)
    ends = ["It stopped with SystemExit", "It did not end within 1 seconds.", "It was interrupted."]
    assert said == [*ends, "It knows 3"]


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    assert "There is no exercise named raises. There are: " in ef.check(raises).html
    assert "There is no exercise named int" in ef.check(3).html
    with pytest.raises(ValueError, match=r"`question` must be one .*; got 'why'\. It has: .*along −g"):
        ef.predict("why")
    with pytest.raises(ValueError, match="`exercise` must be one of the course; got 'why'"):
        ef.given("why")
    with pytest.raises(ValueError, match="`path` must be in a folder that exists; got "):
        ef.lab_record(tmp_path / "no" / "record.json")
    with pytest.raises(ValueError, match=r"`path` must end in .html or .json; got 'record.txt'"):
        ef.lab_record(tmp_path / "record.txt")


def test_numbers_for_each_student():
    first, second = ef.given("three_examples"), ef.given("three_examples", seed=7)
    assert first == ef.given("three_examples") != second

    def three_examples():
        G = jnp.array(second["G"])
        step = ef.empirical_fisher_step(G, budget=second["budget"])
        C, g = ef.empirical_fisher(G), ef.mean_gradient(G)
        return {"C": C, "g": g, "rho": step.agreement, "delta": step.delta}

    assert ef.check(three_examples, seed=7).state == "right"
    assert ef.check(three_examples, seed=8).state == "wrong"


def test_lab_record(tmp_path):
    """A right answer stays passed, also with a hint before, and a wrong one after it."""
    tell(ef.predict(PLAIN), guess=2, sure=60)
    tell(ef.check(raises, "empirical_fisher"), more=True)
    card = ef.check(empirical_fisher)
    assert (card.state, card.form) == ("right", {})
    assert "✓ empirical_fisher: Right" in stored(card)["text/plain"]
    assert "return G.T @ G / len(G)" in RECORD.attempts["empirical_fisher"]["code"]
    ef.check(lambda G: G.T @ G, "empirical_fisher")
    assert "1 guesses, 1 exercises passed" in ef.lab_record(tmp_path / "record.json", name="Ada").html
    kept = json.loads((tmp_path / "record.json").read_text())
    assert (kept["name"], kept["hints"]) == ("Ada", {"empirical_fisher": 1})
    assert kept["guesses"]["plain"] == {"guess": 2, "sure": 60.0, "right": True}
    attempt = kept["attempts"]["empirical_fisher"]
    assert (attempt["passed"], attempt["state"], attempt["tries"]) == (True, "wrong", 3)
    ef.lab_record(tmp_path / "record.html", name="<Ada>")
    page = (tmp_path / "record.html").read_text()
    assert "<pre>True</pre></td><td><pre>3</pre></td><td><pre>1</pre>" in page  # passed, tries, hints
    for part in ("lambda G: G.T @ G", "1 of 1 guesses right", "&lt;Ada&gt;"):
        assert part in page
    assert not re.search("<Ada>|http", page)


def test_lab_records_of_a_class_become_one_table(tmp_path):
    """Of learners with any name; and whatever else lies in the folder."""
    for name, state, says in (("</script>Ada", "right", "Right"), ("=1+1, Bob", "wrong", "A mean")):
        record = Record()
        record.add_attempt("mean_gradient", Verdict("wrong", says), 0, "code")
        record.add_attempt("mean_gradient", Verdict(state, says), 0, "</script>\n<b>")
        record.add_hint("gram", 3)
        record.write(tmp_path / f"{state}.html", name)
        record.write(tmp_path / f"{state}.json", name)
    Record().write(tmp_path / "empty.html", "Eve")
    (tmp_path / "notes.html").write_text("<p>mine</p>")
    (tmp_path / "list.json").write_text("[1]")
    command = [sys.executable, "-m", "efisher_teach.browser.grading", tmp_path, tmp_path / "class.csv"]
    subprocess.run(command, check=True)
    header, *lines = csv.reader((tmp_path / "class.csv").open(encoding="utf-8-sig"))
    assert header == ["file", "name", "exercise", "verdict", "attempts", "hints"]
    expected = [["empty.html", "Eve", "", "not tried", "0", "0"]]
    expected += [[file, "", "", "not a lab record", "", ""] for file in ("list.json", "notes.html")]
    for state, name in (("right", "</script>Ada"), ("wrong", "'=1+1, Bob")):
        for kind in ("html", "json"):
            expected.append([f"{state}.{kind}", name, "mean_gradient", state, "2", "0"])
            expected.append([f"{state}.{kind}", name, "gram", "not tried", "0", "1"])
    assert lines == expected


@pytest.mark.parametrize("name", ["record.json", "record.html"])
def test_a_full_disk_leaves_the_old_file(name, tmp_path):
    ef.lab_record(tmp_path / name)
    before = (tmp_path / name).read_text()
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, most[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            ef.lab_record(tmp_path / name, name="Ada")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert [path.read_text() for path in tmp_path.iterdir()] == [before]


def test_what_is_no_guess_is_not_kept():
    for message in ({}, {"guess": 0, "sure": 1}, {"guess": 2, "sure": None}, {"guess": "2", "sure": 1}):
        for question in (PLAIN, NUMBER._replace(low=1)):
            tell(ef.predict(question), **message)
    assert RECORD.guesses == {}


def test_environment_says_where_it_runs():
    card = ef.environment()
    assert "no answer yet" in card.html
    assert re.search(r"jax: \d+\.\d+", stored(card)["text/plain"])
    card.seen = {"front end": "<i>"}
    assert "they run, in &lt;i&gt;" in card.html


def test_a_cell_that_runs_again_closes_its_cards_and_they_do_not_listen(monkeypatch):
    run_cell(monkeypatch, "one", "first")
    card, summary = ef.predict(PLAIN), ef.guesses()
    before = card.html, summary.html
    run_cell(monkeypatch, "one", "second")
    again = ef.predict(PLAIN)
    assert card.comm is summary.comm is None
    tell(again, guess=1, sure=50)
    assert (card.html, summary.html) == before
