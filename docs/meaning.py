"""What each verdict says, in a sentence; the code decides between them in dogwatch/agent/verdict.py and workflows/ending.py."""

from dogwatch.contracts.agent import VerdictCode

MEANINGS = {
    VerdictCode.SUCCESS: "The agent finished: a complete result, good in every field, and a clean exit or an end by us after it.",
    VerdictCode.MAX_TURNS: "The agent used all its turns.",
    VerdictCode.BUDGET_EXCEEDED: "The agent used all the job's money.",
    VerdictCode.STRUCTURED_OUTPUT_FAILED: "The answer never matched the schema that was asked for.",
    VerdictCode.REFUSED: "The model declined the request.",
    VerdictCode.HOOK_STOPPED: "A hook of the CLI ended the run.",
    VerdictCode.EXECUTION_ERROR: "The agent failed, by its own result or by an exit code that contradicts it.",
    VerdictCode.AUTHENTICATION_FAILED: "The model's API did not take the key.",
    VerdictCode.API_REJECTED: "The model's API refused the request for good.",
    VerdictCode.API_OVERLOADED: "The model's API had too much to do, also after the CLI's own retries.",
    VerdictCode.API_UNREACHABLE: "The model's API could not be reached, or its reply broke off.",
    VerdictCode.BAD_INVOCATION: "The CLI refused to start.",
    VerdictCode.NO_RESULT: "The agent exited without a result.",
    VerdictCode.AGENT_KILLED: "A signal ended the agent, and it was not ours.",
    VerdictCode.HUNG_AFTER_RESULT: "The CLI hung after a result that is not the run's own, and was ended.",
    VerdictCode.OUTPUT_LIMIT: "The agent wrote more output than the deployment allows.",
    VerdictCode.SPOOL_TAMPERED: "The agent's output is shorter than what was read of it, or other bytes.",
    VerdictCode.SUPERVISOR_LOST: "The agent's supervisor died, so nobody knows how the agent ended.",
    VerdictCode.SANDBOX_LOST: "The sandbox is gone, and the agent with it.",
    VerdictCode.DEADLINE: "The job's time was over; what the agent had done by then is kept.",
    VerdictCode.CANCELLED: "Somebody cancelled the job; what the agent had done by then is kept.",
    VerdictCode.WITHDRAWN: "The job was cancelled while it waited in its session, or its session closed.",
    VerdictCode.ORPHANED: "The job's workflow was terminated or is gone, so nobody decided; the row says so.",
    VerdictCode.INFRASTRUCTURE: "A step of ours failed for good, after its retries.",
}
