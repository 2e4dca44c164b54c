"""How edits are judged, as data: a number means nothing without it.

A protocol says how edits are put in, when they are read, what counts as an answer, which answer is the target, and how
much is generated. It is stored in every result, together with what `comparable_with` says: which published numbers the
result may be set beside. Two results may be subtracted only where `differences` finds none.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from editing.evaluation.said import FRAMES
from factscope.data.case import Case
from factscope.data.questions.probes import probed
from factscope.data.questions.variations import varied
from factscope.errors import EditError

SCORERS = {
    "likelihood": "the target's mean log-probability a token is above the other answer's; a tie fails",
    "token accuracy": "share of the target's tokens that are the argmax after the true ones before them",
    "strict": "every token of the target is the argmax: greedy generation begins with it, token for token",
    "generation": "a greedy continuation, up to its first line break, holds an accepted spelling as whole words",
    "said": "a greedy continuation, up to where it stops by itself, holds an accepted spelling as whole words",
}


@dataclass(frozen=True)
class Protocol:
    """One way to judge."""

    name: str
    scorer: str  # one of SCORERS
    size: int | None = 1  # cases of one edit; None: all of them
    stays: bool = False  # each edit on top of those before; else the model is restored after each
    target: str = "new"  # or "true": see factscope.data.case.TARGETS
    words: int = 0  # tokens of a greedy continuation; 0: none, unless the scorer needs it
    speech: int = 0  # tokens of the texts whose n-gram entropy is taken, top-5 sampling; 0: none
    prompt_counts: bool = True  # in the n-gram entropy, as in ROME's code
    frame: str = "bare"  # one of said.FRAMES, around every prompt
    probes: bool = False  # whether edits are also asked in other frames, negated, and as yes or no
    variations: bool = False  # whether edits are also asked in hard wordings (factscope/data/questions/variations.py)
    comparable: str = ""

    def case(self, bare: Case) -> Case:
        """A case with all that this protocol asks of it: its probes and hard wordings, too."""
        asked = probed(bare) if self.probes else bare
        return varied(asked) if self.variations else asked

    @property
    def order(self) -> str:
        """How edits share the model, in one word: all "together", each on top of those before, or each "single"."""
        return "sequence" if self.stays else "together" if self.size is None else "single"

    def together(self, cases: Sequence[Case]) -> list[Sequence[Case]]:
        """The cases that are in the model at once, group by group."""
        size = len(cases) if self.stays or self.size is None else self.size
        return [cases[begin : begin + size] for begin in range(0, len(cases), size or 1)]

    @property
    def edits(self) -> str:
        """In words, how edits are put in and when they are read."""
        size = "all cases" if self.size is None else "one case" if self.size == 1 else f"{self.size} cases"
        if self.stays:
            return f"{size} an edit, each on top of those before; read after each (immediate) and at the end (final)"
        return f"{size} an edit on the unedited model, restored after it is read"

    def described(self) -> tuple[tuple[str, str], ...]:
        """Names and values as a page or a terminal shows them."""
        return (
            ("protocol", self.name),
            ("edits", self.edits),
            ("scorer", f"{self.scorer}: {SCORERS[self.scorer]}"),
            ("target", self.target),
            *((("frame", f"{self.frame}: {FRAMES[self.frame]!r}"),) * (self.frame != "bare")),
            *(
                (("n-gram entropy", f"of texts {'with' if self.prompt_counts else 'without'} their prompts"),)
                * bool(self.speech)
            ),
        )


WRITTEN = ("said", "generation")  # scorers that read what was written
WORDS = {"size": "batch", "prompt_counts": "prompt counts"}  # a part by the name of its option
OWN = "results of the same settings only"
PROTOCOLS = {
    one.name: one
    for one in (
        Protocol(
            "counterfact",
            "likelihood",
            comparable="ES, PS, NS, their magnitudes and S of Meng et al. 2022 and later papers on single edits: the "
            "same records, and the start token that the result names",
        ),
        Protocol(
            "memit",
            "likelihood",
            size=None,
            comparable="ES, PS, NS of Meng et al. 2023 at the same number of edits in one batch",
        ),
        Protocol(
            "easyedit",
            "token accuracy",
            comparable="EasyEdit's rewrite_acc, rephrase_acc, portability and locality of single edits, computed after "
            "its padding fix of November 2024; the KnowEdit survey's Table 4 is older",
        ),
        Protocol(
            "zsre-memit",
            "token accuracy",
            size=None,
            target="true",
            comparable="zsRE of Meng et al. 2022 and 2023 (target answers[0], locality as accuracy on NQ, whose "
            "questions they end with a question mark and we do not); not MEND's and EasyEdit's, whose target is `alt`",
        ),
        Protocol(
            "batch-30",
            "token accuracy",
            size=30,
            comparable="reliability, generality, locality (same answer) and their average of MEMoE's batch editing "
            "(Wang and Li 2024): batches of 30 with rollback",
        ),
        Protocol(
            "sequential-batch",
            "token accuracy",
            size=10,
            stays=True,
            comparable="reliability, generality, locality (same answer) and their average of MEMoE's sequential batch "
            "editing (10 x 100, final readings) if 1000 cases are edited",
        ),
        Protocol(
            "sequential",
            "token accuracy",
            stays=True,
            comparable="efficacy, generality and locality of PRUNE (Ma et al. 2024), which are ES, PS and NS here, but "
            "per token: sequential editing judged on the final model, so the final readings, not the immediate ones",
        ),
        Protocol("strict", "strict"),
        Protocol("wild", "said", words=50, probes=True),
        Protocol(
            "generation",
            "generation",
            words=16,
            comparable="tables that look for an accepted spelling in a greedy continuation of 16 tokens; MQuAKE's own "
            "needs the exact answer, RippleEdits' searches the prompt too and generates more",
        ),
    )
}

# By how edits share the model alone: what `edit apply`, `edit evaluate` and `edit sequence` use.
ORDERS = {
    one.order: one
    for one in (
        Protocol("single", "likelihood", words=20),
        Protocol("together", "likelihood", size=None, words=20),
        Protocol("sequence", "likelihood", stays=True, words=20),
    )
}

# Of which suites those numbers are; "KnowEdit" stands for all six of its sets.
SUITES = {
    "counterfact": ("CounterFact",),
    "memit": ("CounterFact",),
    "easyedit": ("CounterFact, flat (EasyEdit)", "zsRE", "KnowEdit"),
    "zsre-memit": ("zsRE",),
    "batch-30": ("CounterFact, flat (EasyEdit)", "CounterFact", "zsRE"),
    "sequential-batch": ("CounterFact, flat (EasyEdit)", "CounterFact", "zsRE"),
    "sequential": ("CounterFact, flat (EasyEdit)", "CounterFact", "zsRE"),
    "generation": ("MQuAKE", "RippleEdits", "KnowEdit"),
}
NO_START = {"easyedit", "batch-30", "sequential-batch"}  # their code puts no start token before GPT-2's prompts


def protocol_of(one: Protocol | str) -> Protocol:
    """A protocol, or the one of an order by its name; EditError for a name that is none of `ORDERS`."""
    if isinstance(one, str) and one not in ORDERS:
        raise EditError(f"edits cannot share the model as {one!r}; choose {', '.join(ORDERS)}, or give a protocol")
    return ORDERS[one] if isinstance(one, str) else one


def comparable_with(one: Protocol, suite: str, start_token: str, known: bool = False) -> str:
    """Which published numbers a result may be set beside, and under which reserve.

    Args:
        suite: `Case.suite`.
        start_token: as the result names it, "none" for none.
        known: whether only cases that the model knows were asked.
    """
    if not one.comparable:
        return OWN
    names = SUITES[one.name]
    if not any(suite == name or suite.startswith(f"{name} ") for name in names):
        return f"{OWN}: the numbers of this protocol are published for {', '.join(names)}, and this is {suite}"
    if known:
        return f"{OWN}: published numbers are of every record, these of those whose facts the model knows"
    if one.name in NO_START and start_token != "none":
        return f"{one.comparable}; there no start token is put before a prompt, and here it is {start_token}"
    return one.comparable


def usual(suite: str) -> str:
    """The name of the protocol that a suite is usually judged by."""
    if suite in ("MQuAKE", "RippleEdits"):
        return "generation"
    return "easyedit" if suite.startswith(("zsRE", "KnowEdit")) else "counterfact"


def protocol(name: str, **changes: Any) -> Protocol:
    """A protocol by name, with some of its parts changed: it is then comparable with its own like only.

    Raises EditError for a name, a scorer or a number that there is not.
    """
    if name not in PROTOCOLS:
        raise EditError(f"there is no protocol {name!r}; choose one of {', '.join(PROTOCOLS)}")
    known = PROTOCOLS[name]
    wanted = {key: value for key, value in changes.items() if value is not None and getattr(known, key) != value}
    chosen = replace(known, **wanted)
    if chosen.scorer not in SCORERS:
        raise EditError(f"there is no scorer {chosen.scorer!r}; choose one of {', '.join(SCORERS)}")
    if chosen.size is not None and chosen.size < 1:
        raise EditError(f"an edit of {chosen.size} cases cannot be made; give at least 1")
    for what in ("words", "speech"):
        if getattr(chosen, what) < 0:
            raise EditError(f"a text of {getattr(chosen, what)} tokens cannot be written; give {what} as 0 or more")
    if chosen.frame not in FRAMES:
        raise EditError(f"there is no frame {chosen.frame!r}; choose one of {', '.join(FRAMES)}")
    if chosen.scorer in WRITTEN and not chosen.words:
        chosen = replace(chosen, words=PROTOCOLS["wild" if chosen.scorer == "said" else "generation"].words)
    if set(wanted) - without_effect(chosen):
        said = ", ".join(f"{WORDS.get(key, key)} {value}" for key, value in wanted.items())
        chosen = replace(chosen, name=f"{name} with {said}", comparable="")
    return chosen


def without_effect(one: Protocol) -> set[str]:
    """What changes no number but its own: to write as well as to be read."""
    return {"speech", "probes", "variations"} | (set() if one.scorer in WRITTEN else {"words"})


def differences(one: Protocol, other: Protocol) -> Sequence[str]:
    """Why numbers under these two cannot be subtracted, in words; none if they can."""
    mine, theirs = asdict(one), asdict(other)
    alike = {"name", "comparable", *(without_effect(one) & without_effect(other))}
    alike -= {"speech"} if one.speech and other.speech else set()
    return [
        f"{WORDS.get(key, key)} is {mine[key]!r} in one and {theirs[key]!r} in the other"
        for key in mine
        if key not in alike and mine[key] != theirs[key]
    ]
