"""Keep the wire format as it is now: `python -m tests.unit.contracts.record`."""

import json

from tests.unit.contracts.test_contract_schema import SNAPSHOT, schema

if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(schema(), indent=1, sort_keys=True) + "\n")
