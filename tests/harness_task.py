"""A multiple-choice task for the tests: rows as the data set arc has them, and lm-eval's YAML over the same file."""

from __future__ import annotations

import json
import random
from pathlib import Path

YAML = """
task: sums
dataset_path: json
dataset_kwargs:
  data_files: {test: FILE}
test_split: test
output_type: multiple_choice
doc_to_text: |-
  {{question}}
  {% for choice in choices.text %}{{"ABCD"[loop.index0]}}. {{choice}}
  {% endfor %}The correct answer is:
doc_to_choice: "{{['A', 'B', 'C', 'D']}}"
doc_to_target: "{{choices.label.index(answerKey)}}"
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {version: 1}
"""


def write_task(folder: Path, count: int) -> Path:
    """`folder`/arc/test.jsonl with `count` sums of many lengths, and beside it sums.yaml, which asks as `arc` does."""
    draw = random.Random(0)
    data, task = folder / "arc" / "test.jsonl", folder / "sums.yaml"
    data.parent.mkdir(parents=True)
    data.write_text("".join(json.dumps(_row(draw)) + "\n" for _ in range(count)), "utf-8")
    task.write_text(YAML.replace("FILE", str(data)), "utf-8")
    return task


def _row(draw: random.Random) -> dict[str, object]:
    numbers = [draw.randrange(10) for _ in range(draw.randrange(2, 9))]
    choices = draw.sample(range(72), 3)
    choices.insert(draw.randrange(4), sum(numbers))
    labels = list("ABCD")
    return {
        "question": f"{'+'.join(map(str, numbers))} =",
        "choices": {"text": list(map(str, choices)), "label": labels},
        "answerKey": labels[choices.index(sum(numbers))],
    }
