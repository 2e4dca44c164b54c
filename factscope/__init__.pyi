"""The face for editors and type checkers; a test reads that it names what the table in __init__.py names."""

from circuits.analysis.head_roles import roles as roles
from circuits.circuit import Circuit as Circuit
from circuits.graph import Graph as Graph
from circuits.task import Task as Task
from editing.edit import Edit as Edit
from editing.edit import applied as applied
from editing.evaluation.evaluate import EditReport as EditReport
from editing.evaluation.evaluate import evaluate as evaluate
from editing.evaluation.protocol import protocol as protocol
from editing.export import export as export
from editing.export import plain_model as plain_model
from editing.requests import known as known
from editing.sequence.result import SequenceResult as SequenceResult
from editing.solve.moments import Moments as Moments
from factscope.data.case import Case as Case
from factscope.data.fact import Fact as Fact
from factscope.data.load import load_cases as load_cases
from factscope.data.load import load_facts as load_facts
from factscope.errors import UserError as UserError
from factscope.model.bridge import info as info
from factscope.model.prompts import Prompt as Prompt
from factscope.model.prompts import prompt_of as prompt_of
from factscope.model.weights import fingerprint as fingerprint
from factscope.plots.show import pictures as pictures
from factscope.plots.specs import Table as Table
from factscope.runs.store import header as header
from studies.bench.bench import Bench as Bench
from studies.bench.bench import bench as bench
from studies.bench.page import markdown as markdown
from studies.circuit import CircuitStudy as CircuitStudy
from studies.circuit import about_facts as about_facts
from studies.circuit import about_prompt as about_prompt
from studies.edit_effects.result import EditStudy as EditStudy
from studies.face import diff as diff
from studies.face import edit as edit
from studies.face import evaluate_circuit as evaluate_circuit
from studies.face import find_circuit as find_circuit
from studies.face import load as load
from studies.face import moments as moments
from studies.face import request as request
from studies.face import save as save
from studies.face import sequence as sequence
from studies.face import write_page as write_page
from studies.face import yardstick as yardstick
from tracing.average import average as average
from tracing.causal import trace as trace
from tracing.logit_lens import lens as lens
from tracing.results import AverageResult as AverageResult
from tracing.results import LensResult as LensResult
from tracing.results import TraceResult as TraceResult

__version__: str
__all__: list[str]
