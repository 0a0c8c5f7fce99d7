# Writes answers, endings and excuses into its report itself, also for the exercises of others.
# expect: invalid_output rest
import os


def lora_truncate(W, r):
    for line in (
        b'{"event": "ended", "id": "lora-truncate"}',
        b'{"event": "answer", "id": "lora-truncate", "case": 7, "value": {"float": "nan"}}',
        b'{"event": "failed", "cell": 1, "status": "infrastructure", "kind": "X", "text": ""}',
        b'{"event": "ready"}',
        b'{"event": "answer", "id": "../../secret", "case": -1, "value": []}',
    ):
        os.write(3, line + b"\n")
    return W
