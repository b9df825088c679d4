"""Evaluation: perplexity, LAMBADA and multiple choice from local files, and the harness's tasks."""

from ssmlab.evaluation.perplexity import Perplexity, evaluate_text
from ssmlab.evaluation.run import TaskResult, evaluate_task
from ssmlab.evaluation.scoring import Request, Score, score
from ssmlab.evaluation.tasks import Task, load_task

__all__ = [
    "Perplexity",
    "Request",
    "Score",
    "Task",
    "TaskResult",
    "evaluate_task",
    "evaluate_text",
    "load_task",
    "score",
]
