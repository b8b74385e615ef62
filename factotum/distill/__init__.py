"""Policy Distillation (arXiv 1511.06295): many expert policies become one small network."""

from factotum.distill.agent import PolicyAgent as PolicyAgent
from factotum.distill.agent import TeacherAgent as TeacherAgent
from factotum.distill.config import PolicyConfig as PolicyConfig
from factotum.distill.config import preset as preset
from factotum.distill.model import PolicyNetwork as PolicyNetwork
from factotum.distill.objective import DistillationBatch as DistillationBatch
from factotum.distill.objective import DistillationObjective as DistillationObjective
from factotum.distill.store import load_policy as load_policy
from factotum.distill.store import save_policy as save_policy
from factotum.distill.teacher import Teacher as Teacher
from factotum.distill.teacher import as_teacher as as_teacher
