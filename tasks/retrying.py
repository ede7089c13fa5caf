"""Where trying again is decided, for all tasks: only what an error itself calls transient."""

from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from vna.errors import is_transient


def if_transient(task: "Task[..., Any]", task_run: TaskRun, state: "State[Any]") -> bool:
    """Prefect's retry condition: look at the error a task raised."""
    try:
        state.result(raise_on_failure=True)
    except Exception as error:  # noqa: BLE001 - whatever the task raised is asked the same question
        return is_transient(error)
    return False
