"""What `import factscope` offers where one call has to join several rooms, or to choose as the command line chooses.

Everything else that the face names (`factscope/__init__.py`) is the function or the class itself. The choices made here
are those of the commands: a circuit found from scores is cut to another subject where one fits, a method that needs
second moments gets them, an edit's own facts are what is asked.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from circuits.circuit import Circuit
from circuits.find import find
from circuits.graph import check_model
from circuits.method import Method
from circuits.task import AUTO, Task
from editing import compute as computing
from editing import requests as asking
from editing.edit import Edit, applied
from editing.evaluation.tasks import OWN, Tasks
from editing.method import MethodConfig, MethodSpec, method_names
from editing.method import method as method_of
from editing.restraint import restrained, restraint
from editing.sequence.result import Config as SequenceConfig
from editing.sequence.result import SequenceResult
from editing.sequence.run import sequence as in_sequence
from editing.sequence.seeds import Orders, SequenceOrders, over_seeds
from editing.sequence.yardstick import Config as YardstickConfig
from editing.sequence.yardstick import Yardstick
from editing.sequence.yardstick import yardstick as measured_by
from editing.solve import moments as second_moments
from editing.solve.corpus import Config as MomentsConfig
from editing.solve.moments import Moments
from editing.trained.editor import Trained
from factscope.cache import digest
from factscope.data.case import Case
from factscope.data.fact import Fact
from factscope.data.request import EditRequest
from factscope.errors import UserError
from factscope.model.bridge import Bridge, info
from factscope.model.forward.generate import generate as continued
from factscope.model.forward.generate import text_until_end
from factscope.model.prompts import Prompt, as_prompt, tokenized
from factscope.progress import progress
from factscope.settings import owned
from studies.circuit import CircuitStudy, evaluated, with_notes
from studies.circuit_inputs import DEFAULT, CircuitInputs, TaskOptions, about_prompt, other_prompts
from studies.edit import MethodRun, told
from studies.edit_effects.model_state import Config as DiffConfig
from studies.edit_effects.result import EditStudy
from studies.edit_effects.study import edit_studies
from studies.other_subjects import relation_of
from studies.tables import survey as tables
from studies.tables.round_trip import RoundTrip, check_back, round_trip
from studies.tables.survey import Survey
from tracing.causal import Config as TraceConfig
from tracing.causal import cells_of
from tracing.causal import trace as traced
from tracing.flow.knockout import FlowConfig
from tracing.flow.knockout import cells_of as knockouts
from tracing.flow.knockout import flow as followed
from tracing.flow.results import FlowResult
from tracing.results import TraceResult

# ---- traces ----


def trace(
    model: Bridge, prompt: str | Prompt, config: TraceConfig = TraceConfig(), *, shown: bool | None = None
) -> TraceResult:
    """Trace `prompt` with a progress bar. Without an answer, the model's own next token is traced, as in ROME.

    A text is made a prompt first, as `fs.prompt(model, text)` makes it.

    Effects are in the metric's unit, positive where restoring a state helps the answer (Meng et al. 2022, section 2).
    `shown` says whether there is a bar; None: in a notebook and at a terminal.

    Raises NoGap if the corruption does not hurt the answer, and ModelError for a model that cannot be traced exactly.
    """
    info(model)  # what is no bridge is told in one sentence
    prompt = as_prompt(model, prompt)
    with progress("tracing", cells_of(model, prompt, config), shown=shown) as advance:
        return traced(model, prompt, config, advance=advance)


def flow(
    model: Bridge,
    prompt: str | Prompt,
    config: FlowConfig = FlowConfig(),
    *,
    pool: Sequence[Fact] = (),
    shown: bool | None = None,
) -> FlowResult:
    """Knock out attention to the words of `prompt`, with a progress bar: what the answer loses, by source and layer.

    A text is made a prompt first. Without an answer, the model's own most probable next token is followed. `pool` are
    facts whose answers are attributes of their subjects, beside those that ship with us; `shown` is as in `trace`.

    Changes are of the answer's probability, relative; -1 where nothing of it is left (Geva et al. 2023, section 4).

    Raises UserError for a knockout of nothing or a window larger than the model, and ModelError for a model whose
    attention cannot be knocked out exactly.
    """
    info(model)
    prompt = as_prompt(model, prompt)
    with progress("knocking out", knockouts(model, prompt, config), shown=shown) as advance:
        return followed(model, prompt, config, pool=pool, advance=advance)


About: TypeAlias = str | Prompt | Task | CircuitInputs
MomentsFrom: TypeAlias = Moments | MomentsConfig | Literal["identity"] | None
Settings: TypeAlias = Mapping[str, Any] | None

# ---- circuits ----


def find_circuit(
    model: Bridge,
    about: About,
    method: Method = DEFAULT,
    *,
    swap: str | None = None,
    others: Sequence[str] = (),
    split: bool = True,
    seed: int = 0,
) -> Circuit:
    """The circuit of a sentence, a prompt, or a task, as `circuit find` finds it.

    By default edges are scored by EAP-IG for the fact and other subjects of its relation, cut edges carry their mean
    over other subjects, and the circuit is grown until it is faithful (`about_prompt` has the rules). `others` names
    these subjects; else they are those of the shipped facts. With `swap` the prompt stands alone, and a cut edge
    carries what it would carry for that subject. Where no other subject is known, and for the other methods, it carries
    zero. A `Task` may say its ablation itself. What was chosen is in the circuit's `notes`, which it shows; that there
    was no other subject to choose is a warning, too. With `split`, queries, keys and values are readers of their own.

    Raises UserError for a fact that the model does not know, and EmptyCircuit where nothing or everything is left.
    """
    check_model(model)
    if isinstance(about, str | Prompt):
        options = TaskOptions(ablation="counterfactual" if swap else AUTO, others=tuple(others))
        about = _inputs(model, about, method, swap, options)
        if method.prefers == "counterfactual" and about.task.ablation == "zero":
            warnings.warn("; ".join(about.notes), stacklevel=2)
    if isinstance(about, Task):
        return find(model, about, method, split=split, seed=seed, shown=None)
    return with_notes(find(model, about.task, method, split=split, seed=seed, shown=None), about)


def _inputs(
    model: Bridge, about: str | Prompt, method: Method, swap: str | None, options: TaskOptions
) -> CircuitInputs:
    if isinstance(about, str):
        return about_prompt(model, about, swap=swap, method=method, options=options)
    return about_prompt(
        model,
        about.text,
        subject=about.subject,
        answer=about.answer or None,
        foil=about.foil or None,
        swap=swap,
        method=method,
        options=replace(options, start=about.start_token or "none"),
    )


def evaluate_circuit(
    model: Bridge,
    circuit: Circuit,
    held_out: Sequence[Prompt] | None = None,
    answers: Sequence[str] | None = None,
    seed: int = 0,
) -> CircuitStudy:
    """The circuit with its `.evaluation` and its heads' `.roles`.

    Prompts that are held out, and the answers among which a mover chooses, are those of the shipped relation of the
    circuit's first prompt where they are not given.
    """
    if held_out is None:
        held_out = other_prompts(model, circuit)
    if answers is None:
        relation = relation_of(circuit.task.prompts[0])
        answers = relation.answers if relation else ()
    return evaluated(model, CircuitStudy(circuit, answers=tuple(answers)), held_out, seed)


# ---- edits ----


def request(
    model: Bridge, text: str | Prompt, target: str, *, subject: str | None = None, start: str = "auto"
) -> EditRequest:
    """What to edit: after `text`, with its subject in [brackets], the model shall say `target`.

    A prompt's answer is the old one. A shipped fact brings its paraphrases and neighbours along. Raises EditError and
    PromptError for what cannot work.
    """
    if isinstance(text, Prompt):
        own, begin = subject or text.subject, text.start_token or "none"
        return asking.request(model, text.text, target, subject=own, answer=text.answer, start=begin)
    return asking.request(model, text, target, subject=subject, start=start)


def edit(
    model: Bridge,
    requests: EditRequest | Fact | Sequence[EditRequest | Fact],
    method: str | Trained = "rome",
    *,
    settings: Settings = None,
    moments: MomentsFrom = None,
    restrain: str | None = None,
    seed: int = 0,
    start: str = "auto",
) -> Edit:
    """One edit for all requests, as a value; the model is left bitwise as it was.

    An edit of one fact says in its repr what the model said and says now, from `edit.rows`; of more, `evaluate` does.

    Args:
        method: its name; or what `fs.train_editor` gave, of a method that is trained.
        settings: of the method ("steps"), and of the restraint ("restrain.mode").
        moments: second moments of keys, or how to collect them; by default they are taken from the cache, or collected
            once with a progress bar. "identity" puts the identity in their place, which is another method.
        restrain: a restraint, as "prune".

    Raises EditError for input that cannot work.
    """
    requests = (requests,) if isinstance(requests, EditRequest | Fact) else tuple(requests)
    own, aside = _parted(settings, restrain)
    editor = method if isinstance(method, Trained) else None
    spec = method_of(method.method if isinstance(method, Trained) else method)
    config = spec.config_for(model, own, editor)
    used = _moments(model, spec, config, moments, MomentsConfig(seed=seed, start=start))
    made = computing.compute(spec, model, requests, config, moments=used, seed=seed, start=start, editor=editor)
    if restrain is not None:
        made = restrained(model, [made], restrain, restraint(restrain).config_for(aside))
    return told(model, made)


def edit_back(
    model: Bridge,
    requests: EditRequest | Sequence[EditRequest],
    methods: Sequence[str] = ("rome",),
    *,
    settings: Mapping[str, Settings] = MappingProxyType({}),
    moments: MomentsFrom = None,
    second: Sequence[EditRequest | None] = (),
    seed: int = 0,
    start: str = "auto",
) -> RoundTrip:
    """Each fact edited and edited back by each method, beside the exact undo and a random change as large.

    Args:
        settings: of each method, by its name.
        moments: as of `edit`, for every method that needs them.
        second: for each request another that contradicts it, or None; by default none has.

    Raises UserError for a request whose old answer is not known, and EditError as `edit` does. The model is left
    bitwise as it was.
    """
    asked = (requests,) if isinstance(requests, EditRequest) else tuple(requests)
    check_back(asked)
    runs = []
    for spec in map(method_of, dict.fromkeys(methods)):
        config = spec.config_for(model, settings.get(spec.name) or {})
        used = _moments(model, spec, config, moments, MomentsConfig(seed=seed, start=start))
        runs.append(MethodRun(spec, config, used, seed, start))
    if not runs:
        raise UserError("there is no method to edit by: name one, as rome")
    return round_trip(model, asked, runs, second=second)


def survey(
    model: Bridge,
    sets: Mapping[str, Sequence[Case]],
    methods: Sequence[str],
    folder: str | Path,
    *,
    tasks: Sequence[str] = OWN,
    editors: Sequence[Trained] = (),
    edits: int = tables.EDITS,
    **how: Any,
) -> Survey:
    """Methods by sets, general tasks after `edits` edits, and one case: Tables 4 to 7 of Zhang et al. 2024.

    Args:
        sets: cases by the name of their set, as `load_cases` gives them.
        folder: where it is journalled; the same call goes on from there.
        tasks: as "repeat", "past_tense", "antonyms", "capitals", or tasks of lm-eval.
        editors: of methods that are trained.
        how: options of `bench`, as `settings`, `moments` and `seed`.

    Raises UserError where there is no set, method or task, or fewer cases than `edits`. The model is left bitwise as it
    was.
    """
    asked = Tasks.of(model, tasks, seed=how.get("seed", 0), start=how.get("start", "auto"))
    return tables.survey(model, sets, methods, folder, tasks=asked, editors=editors, edits=edits, **how)


def generate(
    model: Bridge, prompt: str | Prompt, *, edits: Sequence[Edit] = (), tokens: int = 40, start: str = "auto"
) -> str:
    """What the model writes after a prompt, with these edits in place for as long as it writes.

    Greedy, up to the end of the text or to so many tokens; the prompt is no part of it. Brackets in a text are plain
    text. Raises PromptError for an empty prompt, EditError for edits that do not go in, UserError for no tokens.
    """
    if tokens < 1:
        raise UserError(f"a text of {tokens} tokens cannot be written; give at least 1")
    if isinstance(prompt, Prompt):
        ids = prompt.tokens
    else:
        ids, _ = tokenized(model, prompt, start=start)
    with applied(model, edits):
        (written,) = continued(model, [ids], tokens)
    return text_until_end(model, written)


def moments(model: Bridge, layers: Sequence[int] | None = None, config: MomentsConfig | None = None) -> Moments:
    """Second moments of keys (their covariance), from the cache or collected now, with a progress bar.

    `layers` are by default those that any method writes to which needs second moments.
    """
    if layers is None:
        needing = [spec for spec in map(method_of, method_names()) if spec.needs_moments]
        layers = sorted({layer for spec in needing for layer in spec.layers(spec.config_for(model))})
    return second_moments.collect(model, layers, config)


def _moments(
    model: Bridge, method: MethodSpec, config: MethodConfig, given: MomentsFrom, usual: MomentsConfig
) -> Moments | None:
    if not method.needs_moments or given == "identity":
        return None
    if isinstance(given, Moments):
        return given
    return moments(model, method.layers(config), given or usual)


def _parted(settings: Settings, restrain: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the method, and those of the restraint; UserError for one where there is no restraint."""
    aside, own = owned(settings or {}, "restrain")
    if aside and restrain is None:
        raise UserError(
            f"restrain.{next(iter(aside))} is a setting of a restraint, and none was asked for: name a restraint, too"
        )
    return own, aside


def diff(
    model: Bridge, edit: Edit, config: DiffConfig = DiffConfig(), *, folder: str | Path | None = None
) -> EditStudy:
    """What the edit changed inside: traces, circuits, heads and lens before it, after it, and after control edits.

    With a folder, finished parts are kept there and the same call goes on from them. The model is left bitwise as it
    was. Two circuits are compared by `diff_circuits`.
    """
    return edit_studies(model, [edit], config, folder=Path(folder) if folder else None, shown=None)[0]


def sequence(
    model: Bridge,
    requests: Sequence[EditRequest | Fact],
    method: str | Trained,
    config: SequenceConfig = SequenceConfig(),
    *,
    folder: str | Path,
    settings: Settings = None,
    moments: MomentsFrom = None,
    yardstick: Yardstick | None = None,
) -> SequenceResult:
    """Edit the requests one after another in `folder`; the same call goes on from what is done there.

    `method`, `settings` and `moments` are as in `edit`; `yardstick` is by default what `fs.yardstick(model, requests)`
    gives. The model is left bitwise as it was.
    """
    own, aside = _parted(settings, config.restrain)
    editor = method if isinstance(method, Trained) else None
    spec = method_of(method.method if isinstance(method, Trained) else method)
    chosen = spec.config_for(model, own, editor)
    seed, start = config.seed, config.start
    if yardstick is None:
        yardstick = measured_by(model, requests, YardstickConfig(seed=seed, start=start))
    return in_sequence(
        model,
        requests,
        spec,
        config,
        folder,
        yardstick,
        config=chosen,
        editor=editor,
        restraint_config=restraint(config.restrain).config_for(aside) if config.restrain else None,
        moments=_moments(model, spec, chosen, moments, MomentsConfig(seed=seed, start=start)),
    )


@dataclass(frozen=True)
class _Sequence:
    """A whole sequence by a seed, as this process or a worker makes it."""

    method: str | Trained
    config: SequenceConfig
    settings: Settings = None
    moments: MomentsFrom = None
    yardstick: YardstickConfig = field(default_factory=YardstickConfig)

    def __call__(
        self, model: Bridge, requests: Sequence[EditRequest | Fact], seed: int, folder: Path
    ) -> SequenceResult:
        own = replace(self.config, seed=seed)
        return sequence(
            model, requests, self.method, own, folder=folder, settings=self.settings, moments=self.moments,
            yardstick=measured_by(model, requests, replace(self.yardstick, seed=seed, start=own.start)),
        )  # fmt: skip


def sequences(
    model: Bridge,
    requests: Sequence[EditRequest | Fact],
    method: str | Trained,
    config: SequenceConfig = SequenceConfig(),
    orders: Orders = Orders((0, 1, 2)),
    *,
    folder: str | Path,
    **how: Any,
) -> SequenceOrders:
    """The same requests in several orders, each a whole `fs.sequence` by its seed in a folder of its own in `folder`.

    `orders` has the seeds, which take the place of the config's, and the workers who make whole sequences. Keyword
    arguments: `settings` and `moments` as in `sequence`, and `yardstick`, an `fs.YardstickConfig`.

    Raises EditError for a single request, UserError for a shard, which has no result of its own, and what a sequence
    raises.
    """
    if orders.shard is not None:
        raise UserError(f"shard {orders.shard} of the orders has no result of its own: give all, or use the command")
    one = _Sequence(method, replace(config, seed=0), **how)
    named = method.digest if isinstance(method, Trained) else method_of(method).name
    drawn = one.moments.name if isinstance(one.moments, Moments) else one.moments
    asked = {"method": named, "config": one.config, "settings": one.settings, "moments": drawn}
    made = over_seeds(model, requests, one, orders, folder, {"asked": digest(asked | {"by": one.yardstick})})
    assert made is not None
    return made
