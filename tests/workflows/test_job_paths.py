"""Every path of a job."""
from tests.workflows.stage import Stage
from temporalio.client import WorkflowExecutionStatus

async def test_success(skipping: Stage) -> None:
    """ok"""
    closed = await skipping.job()
    assert closed.status is WorkflowExecutionStatus.COMPLETED
    assert len(closed.events) == 29
    print(skipping.hands.ran())
