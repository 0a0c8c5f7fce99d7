"""Reference answers of notebook 00b_packing, as a student would write them."""


def training_cycle_pack(examples, length):
    rows = []
    for ids, labels in examples:
        if not rows or len(rows[-1][0]) + len(ids) > length:
            rows.append(([], [], []))
        input_ids, learned, places = rows[-1]
        input_ids += ids
        learned += [-100] + list(labels[1:])
        places += range(len(ids))
    return rows


def training_cycle_audit(train, test, mark, end_id):
    def prompt(row):
        ids = row["input_ids"]
        for i in range(len(ids)):
            if ids[i : i + len(mark)] == mark:
                return ids[: i + len(mark)]

    asked = [prompt(row) for row in test]
    faults = []
    for number, row in enumerate(train):
        ids, labels, start = row["input_ids"], row["labels"], len(prompt(row))
        fault = "fit"
        if prompt(row) in asked:
            fault = "leaked"
        elif any(ids == other["input_ids"] for other in train[:number]):
            fault = "repeated"
        elif ids[-1] != end_id:
            fault = "cut"
        elif set(labels) == {-100}:
            fault = "nothing learned"
        elif any(label != -100 and label != token for token, label in zip(ids, labels, strict=True)):
            fault = "shifted"
        elif set(labels[:start]) != {-100}:
            fault = "prompt learned"
        elif labels[-1] == -100:
            fault = "end not learned"
        faults.append(fault)
    return faults
