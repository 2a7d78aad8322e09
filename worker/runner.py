"""How workflow code is run: in the SDK's sandbox, with every import either ours on purpose or refused."""

from temporalio import workflow
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

PASSED_THROUGH = ("dogwatch", "activities")
"""Roots that workflows share with the worker: loading the contracts anew for each run would triple its memory and CPU (measured).

`workflows` is not among them: it is loaded anew, so that a clock or a file that its code touches is refused.
"""


def strict_runner() -> SandboxedWorkflowRunner:
    """A runner that fails at the worker's start when a workflow imports what nobody decided to pass through."""
    return SandboxedWorkflowRunner(
        restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH).with_import_notification_policy(
            workflow.SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH
        )
    )
