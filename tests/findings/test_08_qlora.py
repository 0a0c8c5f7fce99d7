r"""What notebook 08 says of stored runs and of the memory of LLaMA."""

import re

from finding import once_beside, printed, read, said
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from coursekit.checks.qlora import OPTIMIZERS, plan, row_time
from coursekit.comparison import costs
from coursekit.experiments import results
from coursekit.experiments.intervals import Difference
from coursekit.memory import GB, MB, GiB, card
from coursekit.methods import LoRA
from coursekit.models import sources
from coursekit.qlora.memory import claims, llama_config, qlora_bill
from coursekit.quantization import code

PAGE = "08_qlora"
LORA = results.read("lora", "probe")


def by(ahead: Difference) -> tuple[str, str]:
    r"""Points that an arm is ahead, and their interval, as prose has them."""
    assert ahead.value > 0
    return f"{100 * ahead.value:.1f}", ahead.in_points().split(" ", 1)[1].replace("+", "")


def test_qlora_and_lora_are_equal_for_practical_purposes():
    found = LORA.difference("qlora", "all-r8")
    assert found.verdict == "equal for practical purposes"
    value, ends = by(found)
    said(PAGE, f"On MiniLM QLoRA and LoRA are {found.verdict}: QLoRA is {value} points ahead {ends}")


def test_it_is_an_easy_test():
    found = results.read("formats").difference("full", "full, nf4, double")  # as `quantize_model` has it
    assert found.verdict == "equal for practical purposes"
    said(PAGE, f"Rounded to NF4 a trained MiniLM keeps its accuracy, {found.verdict} ([runs of 07](../data/evidence/"
               "formats.md)). Training had little to make up for")  # fmt: skip


def test_13b_fits_on_24_gib_as_qlora_alone():
    seen = card("RTX 4090").capacity() - GiB  # left to the driver
    more = missed("33B")  # what the paper's bases have more than the sum's is less in smaller models
    assert missed("13B") < more
    assert qlora_bill("13B").peak < seen - more and seen < qlora_bill("13B", quantized=None).peak
    said(PAGE, "On an RTX 4090 13B fits as QLoRA, not in 16 bits")


def test_the_example_of_a_plan():
    found = row_time((4, "adamw8bit", True), 0.5, 9.0)
    said(PAGE, f"with unpack = 0.5, 4 rows with checkpointing take {found} a row")
    said(PAGE, "every weight is unpacked twice in each step")
    assert row_time((1, "adamw", False), 1.0, 0.0) == 2 + 2  # as many products as unpackings
    assert row_time((4, "adamw", True), 0.5, 9.0) == found  # it has the same time as "adamw8bit"
    said(PAGE, "Of the plans that fit, one with the least time a row is right. Time is counted in products of one row")
    said(PAGE, "a paged optimizer adds copy once a step, however many rows it has; the other two count as free")


def test_the_plans_of_two_cards():
    r"""As the course's own solution finds them."""
    (small, _), (large, time) = (
        (found[:3], found[3])
        for found in (plan("33B", card(name).capacity(), 512, 0.4, 1.2) for name in ("RTX 4090", "A100 80GB"))
    )
    assert (small, large) == ((4, "adamw8bit", True), (4, "adamw", False))
    said(
        PAGE, f"On the A100 alone. There a row takes {time:.1f} products; with checkpointing it would take more than 3"
    )
    said(PAGE, f"without checkpointing a row of 33B takes {time:.1f} products, with it more than 3")
    assert row_time((16, "adamw", True), 0.4, 1.2) > 3
    room = card("RTX 4090").capacity() - GiB
    assert min(qlora_bill("33B", optimizer=o, checkpointing=False).peak for o in OPTIMIZERS) > room


def test_the_baseline_is_worse():
    assert LORA.difference("probe", "qlora").verdict == "worse"
    assert printed(PAGE, r"linear probe .* (\w+)") == ("worse",)
    said(PAGE, "the baseline, a linear probe, to its end")


def test_on_smollm2_the_question_is_open():
    r"""Of the runs that 12 shows: a loss of more than 3 points is not excluded, nor is a gain shown."""
    runs, own = results.read("ship"), {"film": "film", "sums": "sums again"}
    film, sums = (runs.difference(f"{name}, trained on NF4", name) for name in own.values())
    assert all(not d.non_inferior and d.verdict == "no clear difference" for d in (film, sums))
    assert {len(runs.seeds(f"{name}{more}")) for name in own.values() for more in ("", ", trained on NF4")} == {3}
    assert max(map(runs.steps, own.values())) < 20
    assert runs.parameters("film") == 30 * 8 * (2 * 576 + 576 + 192)  # of 30 queries and 30 values
    said(PAGE, "In three short runs ([12](12_ship_it.ipynb), section 6) there is "
               "no clear difference")  # fmt: skip
    much, wide = by(-film)
    said(PAGE, f"on film sentences QLoRA is {much} points behind LoRA {wide}")
    said(PAGE, "On SmolLM2 the question is open.")
    said("12_ship_it", "## 6 · What it achieves")
    for found in (film, sums):
        printed("12_ship_it", rf"\ntrained beside NF4 +beside float32 .*{re.escape(found.in_points())}")
    said(PAGE, "no accuracy beyond ±3 points; on SmolLM2 that is open")


def test_a_step_of_qlora_is_slower_than_one_of_lora():
    r"""Its direction alone: LoRA's step was timed with a single seed."""
    qlora, lora = (costs.read()[arm] for arm in ("qlora", "lora-all-linear"))
    assert qlora.step_ratio > lora.step_ratio
    said(PAGE, "A step gets slower than LoRA's, since unpacking is added work; by how much was not measured on a GPU")
    said(PAGE, "Unpacking takes time, and room saves time")


def test_the_activations_of_a_step_do_not_shrink():
    qlora, lora = (costs.read()[arm] for arm in ("qlora", "lora-all-linear"))
    assert qlora.batch_size == lora.batch_size == 16 and qlora.model == lora.model == "minilm"
    assert qlora.weights < 0.6 * lora.weights and qlora.activations > lora.activations > 0.6 * lora.peak
    said(PAGE, "Activations do not shrink")


def test_every_row_of_the_table_has_its_whole_search():
    arms = ("qlora", "all-r8")
    assert not any(once_beside(LORA, arm) for arm in arms)
    assert {LORA.steps(arm) for arm in arms} == {300} and {len(LORA.seeds(arm)) for arm in arms} == {3}
    said(PAGE, "300 steps with three seeds, each method at its own tuned learning rate")


def test_the_levels_of_nf4_are_no_integers():
    gaps = code("nf4").diff()
    assert gaps.max() > 3 * gaps.min()
    said(PAGE, "NF4's levels are no integers")


def missed(size: str) -> float:
    r"""Bytes that the 4-bit base of the paper's figure 6 has more than the sum's."""
    bill = qlora_bill(size)  # its gradients are as large as its adapter
    return claims()[f"figure_{size}"].value * MB - (bill.weights - bill.gradients)


def test_where_65b_fits():
    r"""A run fits if it leaves 1 GiB to the driver; by the sum, and with the base of the paper's figure 6."""
    resident, paged = (qlora_bill("65B", optimizer=o).peak for o in ("adamw", "paged_adamw"))
    room, more = card("RTX A6000").capacity() - GiB, missed("65B")
    assert resident < room < resident + more and paged + more < room
    assert card("RTX A6000").memory_gb == 48
    count = LoRA(r=64, alpha=16, targets="all-linear").count(llama_config("65B"))
    said(PAGE, f"By this sum 65B needs {resident / GB:.1f} GB and fits on an RTX A6000, a card of 48 GiB, "
               "but tightly (08b)")  # fmt: skip
    said("08b_seven_billion", "With theirs 65B fits on a card of 48 GiB only if its states are paged")
    said(PAGE, f"by the sum LLaMA 65B needs {resident / GB:.0f} GB, and {paged / GB:.0f} with paged states")
    said(PAGE, f"with {count / 1e9:.1f} billion parameters in the adapter")
    said(PAGE, "its gradients and Adam's states in fp32")
    assert abs(16 * count / GB - 2 * 6.4) < 0.02  # two bars of 6.4


def test_where_the_paper_s_bases_are_from():
    said("08b_seven_billion", "The paper's bases (figure 6, as [an issue of bitsandbytes]")


def test_how_long_unpacking_takes_by_the_data_sheets():
    sheets = ((1.008, 165), (2.039, 312))  # TB/s and TFLOP/s of an RTX 4090 and of an A100 of 80 GB
    rtx, large = (f"{(0.5 + 2) / memory / (2 * 512 / products):.1f}" for memory, products in sheets)
    assert rtx == large
    said(PAGE, f"By data sheets unpacking takes {rtx} products of a row of 512 tokens, on both cards below")
    cell = next(cell.source for cell in read(PAGE).cells if 'plan("33B"' in cell.source)
    assert 'for name in ("RTX 4090", "A100 80GB")' in cell
    # An A100's products take less time, so that copying takes more of them; there nothing is paged.
    room, faster = card("A100 80GB").capacity(), 312 / 165
    assert plan("33B", room, 512, float(large), 1.2 * faster) == plan("33B", room, 512, float(large), 1.2)
    copy = 2 * qlora_bill("33B").optimizer / 32e9 / (2 * 512 * 32.5e9 / 165e12)  # out and in again, at 32 GB/s
    assert f'plan("33B", memory.card(name).capacity(), 512, {rtx}, {copy:.1f})' in cell
    assert f"# unpack = {rtx} and copy = {copy:.1f}: from the cards' data sheets" in cell


# The notebook's own run ------------------------------------------------------------------------------------


def nats(what: str) -> str:
    r"""Mean, as printed."""
    return printed(PAGE, rf"(?m)^([\d.]+) nats  {what}$")[0]


def test_training_gets_near_the_entropy():
    entropy, before, lora, qlora = map(
        nats, ("knowing only how often each grade occurs", "before training", "LoRA", "QLoRA")
    )
    assert float(before) - float(entropy) > 0.95 * (float(before) - float(qlora))
    said(PAGE, "Nearly all of the gain is answering with a grade at all")
    said(PAGE, f"costs {before} nats before training, {lora} with LoRA and {qlora} with QLoRA")
    said(PAGE, f"knowing only how often each occurs would cost {entropy}")
    said(PAGE, "One short run ranks neither")


def left(what: str) -> tuple[float, float]:
    r"""Nats of a merged model, and how much less than before training that is."""
    return tuple(float(x) for x in printed(PAGE, rf"\n{what} +([\d.]+) +(-?[\d.]+)"))


def test_the_memory_of_a_step_is_predicted_rightly():
    found = printed(PAGE, r"peak with checkpointing: ([\d.]+) MB predicted, ([\d.]+) MB measured")
    assert abs(float(found[0]) - float(found[1])) < 0.011
    said(PAGE, "For SmolLM2 the sum is right to 0.01 MB, in fp32 on this CPU")


def test_what_merging_into_four_bits_leaves():
    _, kept = left("merged into four bits")
    _, gained = left("adapter beside the base")
    said(PAGE, f"the merge into four bits keeps {kept:.2f} of the {gained:.2f} nats that the adapter had gained")
    said(PAGE, f"The {kept:.2f} come with new scales; on the old ones nothing is left (08b)")
    (on_old,) = printed("08b_seven_billion", r"\nmerged to the nearest level +(\S+)")  # of each block's old scale
    assert float(on_old) == 0
    said(PAGE, f"Do not merge back into the same four bits: {kept:.2f} of {gained:.2f} nats were left")
    before, beside, dense, merged, late = (
        left(what)[0]
        for what in (
            "before training", "adapter beside the base", "merged into the unpacked base", "merged into four bits",
            "merged into the original weights, then four bits",
        )
    )  # fmt: skip
    assert beside == dense and (merged - beside) / (before - beside) > 0.9
    assert abs(late - beside) < 0.1 * (merged - beside)
    said(PAGE, "Merged into the original weights, then quantized, the update arrives: "
               f"{late:.2f} nats, beside the four-bit base {beside:.2f}")  # fmt: skip
    said(PAGE, "Merged into the original weights, then quantized, the update arrived in this run")


def test_how_far_the_weights_move():
    (median,) = printed(PAGE, r"the median weight moves ([\d.]+)% of the way to its next level")
    said(PAGE, f"the median weight is moved {median} % of the way to its next level")
    picture = next(
        output.metadata["image/png"]["alt"]
        for cell in read(PAGE).cells
        for output in cell.get("outputs", [])
        if "beyond halfway" in output.get("metadata", {}).get("image/png", {}).get("alt", "")
    )
    (small,) = re.search(r"ΔW: ([\d.]+) weights in a million", picture).groups()
    assert float(small) < 1
    said(PAGE, "Fewer than one in a million is moved beyond halfway to its next level")


def test_the_losses_of_bitsandbytes_are_the_packages():
    four = r" +([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)\n"  # the first two do not depend on the gradient of A
    ours, theirs = (printed(PAGE, rf"the package{four}"), printed(PAGE, rf"bitsandbytes and PEFT{four}"))
    assert ours == printed(PAGE, rf"your layers{four}")
    said(PAGE, "Yours and the package's agree in every digit printed")
    assert all(abs(float(a) - float(b)) < 0.01 for a, b in zip(ours, theirs, strict=True))
    said(PAGE, "those of bitsandbytes and PEFT differ by less than 0.01")


def test_what_a_layer_keeps_for_the_backward_pass():
    by_autograd, own = (
        int(n.replace(",", "")) for n in printed(PAGE, r"left to autograd: (\S+) bytes\n.*: +(\d+) bytes")
    )
    assert by_autograd == 4 * 576 * 1536
    said(PAGE, f"It keeps the unpacked weight, {by_autograd / MB:.1f} MB in fp32")
    said(PAGE, f"Your layer keeps {own} bytes of it, autograd {by_autograd / MB:.1f} MB unless blocks are checkpointed")


def test_what_codes_of_four_bytes_take():
    weights = 106_168_320  # of the 210 matrices
    assert printed(PAGE, r"(\d+) layers in four bits: (\d+) MB → (\d+) MB") == ("210", "538", "168")
    packed = weights * (4 + 8 / 64 + 32 / (64 * 256)) / 8
    assert packed < weights
    said(PAGE, "a code takes four bytes, where the package has two codes in a byte")


def test_the_recipe_pads_with_a_token_that_is_not_the_end():
    r"""The collator takes the label off every token that is the padding token, so a pad that is eos hides the end."""
    tokenizer = AutoTokenizer.from_pretrained(sources.smollm2())
    end = tokenizer.eos_token_id
    rows = [{"input_ids": [5, 6, 7, end]}, {"input_ids": [5, end]}]
    tokenizer.pad_token = tokenizer.eos_token
    hidden = DataCollatorForLanguageModeling(tokenizer, mlm=False)(rows)["labels"]
    tokenizer.pad_token = tokenizer.unk_token
    labels = DataCollatorForLanguageModeling(tokenizer, mlm=False)(rows)["labels"]
    assert hidden.tolist() == [[5, 6, 7, -100], [5, -100, -100, -100]]
    assert labels.tolist() == [[5, 6, 7, end], [5, end, -100, -100]]
    recipe = next(cell.source for cell in read(PAGE).cells if "DataCollatorForLanguageModeling(" in cell.source)
    assert "tokenizer.pad_token = tokenizer.unk_token" in recipe and "eos_token" not in recipe
