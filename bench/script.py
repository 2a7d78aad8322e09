"""The work that is given to the agent: four replies of the model, three files."""

PROMPT = "The greeting is wrong: correct it, and show that it is right."
FILES = {
    "README.md": "# Greeting\n\nRun `sh greet.sh NAME`.\n",
    "greet.sh": 'echo "Hallo, $1"\n',
    "test.sh": 'test "$(sh greet.sh you)" = "Hello, you!" && echo passed\n',
}
TURNS = {
    "turns": [
        {"text": "I will run the test first.", "tool": "Bash", "input": {"command": "sh test.sh || true", "description": "Run the test"}},
        {"tool": "Read", "input": {"file_path": "{workspace}/greet.sh"}},
        {
            "tool": "Edit",
            "input": {"file_path": "{workspace}/greet.sh", "old_string": '"Hallo, $1"', "new_string": '"Hello, $1!"'},
        },
        {"tool": "Bash", "input": {"command": "sh test.sh", "description": "Run the test again"}},
        {"text": "Corrected: the test passes."},
    ]
}
