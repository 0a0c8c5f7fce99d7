r"""What 08b says of its own run, and of the sums for seven billion parameters."""

from finding import printed, read, said

from coursekit import counts, memory
from coursekit.memory import GB
from coursekit.methods import LoRA
from coursekit.qlora.memory import claims, llama_config, llama_sizes, qlora_bill

PAGE = "08b_seven_billion"
RANK_64 = LoRA(r=64, alpha=16, targets="all-linear")


def base(size: str) -> float:
    r"""Bytes of the 4-bit base by the sum."""
    return qlora_bill(size).weights - 4 * RANK_64.count(llama_config(size))  # the adapter is in fp32


def test_the_bill_and_the_paper_s_bases():
    r"""The base, the adapter with its states, what is on top at the peak, and the peak."""
    missed = []
    for size in llama_sizes():
        bill, theirs = qlora_bill(size), claims()[f"figure_{size}"]
        assert theirs.where == "figure 6, quoted in bitsandbytes#790"
        own = base(size)
        parts = own, bill.states - own, bill.peak - bill.states, bill.peak
        row = tuple(f"{n / GB:.2f}" for n in parts)
        if size in ("7B", "65B"):
            assert printed(PAGE, rf"LLaMA {size} +(\S+) +(\S+) +(\S+) +(\S+)\n?") == row
        missed.append(theirs.value * memory.MB - own)
    assert missed[0] > 0 and missed == sorted(missed)
    section_2 = claims()["base_7b"]
    assert abs(claims()["figure_7B"].value - section_2.value) < 3 and section_2.where == "section 2"
    first, last = (f"{missed[i] / GB:.1f}" for i in (0, -1))
    said(PAGE, "The paper's bases (figure 6, as [an issue of bitsandbytes]"
               "(https://github.com/bitsandbytes-foundation/bitsandbytes/issues/790) quotes it) are larger than the "
               f"sum's, by {first} GB in 7B and {last} in 65B; we do not know why")  # fmt: skip


def test_what_the_parts_of_7b_take():
    bill, own = qlora_bill("7B"), base("7B") / GB
    adapter, on_top, peak = (bill.states - base("7B")) / GB, (bill.peak - bill.states) / GB, bill.peak / GB
    said(PAGE, f"By a sum, QLoRA fits a training step of LLaMA 7B into {peak:.1f} GB")
    share = 100 * RANK_64.count(llama_config("7B")) / counts.full(llama_config("7B"), "causal")
    said(PAGE, f"In 7B the adapter with its gradients and moments takes {adapter:.2f} GB: rank 64 beside every layer "
               f"is {share:.1f} % of the parameters, each with a gradient and two moments")  # fmt: skip
    said(PAGE, f"The base is {own:.2f} of the {peak:.2f} GB")
    said(PAGE, f"a step of LLaMA 7B takes {peak:.1f} GB: the base {own:.2f}, the adapter with its gradients and "
               f"moments {adapter:.2f}, {on_top:.2f} on top")  # fmt: skip


def test_what_is_on_top_is_one_block_s_activations_and_one_matrix():
    bill = qlora_bill("7B")
    worst = max(bill.timeline, key=lambda point: point.activations + point.gradients)
    assert worst.label == "backward: block 0"
    said(PAGE, "a block's activations, computed again, and one weight matrix unpacked into 16 bits")


def test_the_sum_is_a_prediction():
    said(PAGE, "The sum is a prediction; no 7B model was run here.")


def test_the_codes_and_the_loss():
    layers, same, scales = printed(PAGE, r"of (\d+) layers (\d+) have the same 4-bit codes, (\d+) the same codes of")
    assert same == layers and int(scales) < int(layers)
    said(PAGE, f"in how many of the {layers} layers do all 4-bit codes agree?")
    said(PAGE, f"On a CPU all {layers} layers of SmolLM2 have bitsandbytes' 4-bit codes")
    course, theirs = printed(PAGE, r"loss: the course's (\S+), bitsandbytes' (\S+)")
    said(PAGE, f"In all {layers}. Some scales differ, and the losses by {abs(float(theirs) - float(course)):.3f}.")


def test_gradients_and_moments():
    number, apart = printed(PAGE, r"(\d+) gradients; the largest difference is (\S+) of its gradient")
    assert 1e-6 < float(apart) < 1e-5
    said(PAGE, f"Five: in this run none of the {number} gradients is off by a hundred-thousandth of its length")
    said(PAGE, "They are those of the dense model with the same values, to five digits")
    assert printed(PAGE, r"paged Adam has the same weights, bit for bit: (\w+)") == ("True",)
    said(PAGE, "Both take ten steps on one matrix, with the same random gradients as PyTorch's Adam")
    said(PAGE, "Paged, they are Adam's bit for bit")
    said(PAGE, "The course's paged Adam is PyTorch's, bit for bit")
    (cell,) = (cell.source for cell in read(PAGE).cells if "PagedAdamW(p" in cell.source)
    assert "shape, taken = [(256, 576)]" in cell and "budget=2**18, page=2**18" in cell
    assert "# its states fill five pages; the budget has room for one" in cell and -(-8 * 256 * 576 // 2**18) == 5
    steps, off = printed(PAGE, r"after (\d+) steps the 8-bit path is off by (\S+)% of the distance")
    assert steps == "10" and 0.5 < float(off) < 1.5
    said(PAGE, "In 8 bits they are off by about a hundredth of the distance travelled in these ten steps")
    said(PAGE, "Its 8-bit Adam is off by about a hundredth of the distance travelled, in ten random steps")


def test_what_arrives_of_an_update_and_with_how_much_noise():
    nearest, chance = (
        printed(PAGE, rf"{name}: 1× (\S+), 20× (\S+); noise (\S+) of 08's update")
        for name in ("to the nearest level", "with your noise")
    )  # fmt: skip
    assert nearest[0] == "0.00" and abs(float(nearest[1]) - 0.5) < 0.05 and min(map(float, chance[:2])) > 0.95
    said(PAGE, f"Twenty times: then {nearest[1]} of it arrives at the nearest level, and of 08's own update nothing")
    (share,) = printed("08_qlora", r"the median weight moves (\S+)% of the way to its next level")
    assert 20 * float(share) < 50, "a weight gets there beyond halfway"
    said(PAGE, "With your noise nearly all arrives at every size")
    times = f"{chance[2]} times the update"
    said(PAGE, f"The price is the noise, the distance between stored and wanted weights: {times}")
    (part,) = printed(PAGE, r"with your noise it is (\S+) of the base's own rounding error")
    said(PAGE, f"The noise is large beside the update, but only {part} of the error that the base's own rounding made")
    said(PAGE, "To the nearest level 08's update is lost whole. Rounded by chance it was kept, in this run, with a "
               f"noise of {times}")  # fmt: skip


def test_the_merge_with_noise_keeps_what_the_adapter_gained():
    rows = ("adapter beside the base", "merged to the nearest level", "merged with your noise")
    (gained,) = printed(PAGE, rf"{rows[0]} +(\S+) +–")
    nearest, chance = (printed(PAGE, rf"{row} +(\S+) +(-?\S+) ± (\S+)") for row in rows[1:])
    low, high = (float(chance[1]) + side * float(chance[2]) for side in (-1, 1))
    assert low < 0 < high and high - low < 0.25, "no clear difference, and less than what is not answering with a grade"
    assert float(chance[0]) >= float(gained) - 0.05 and float(nearest[0]) == 0
    said(PAGE, f"In this run the merge with noise gains {chance[0]} nats, the adapter {gained}, a difference of "
               f"{chance[1]} (± {chance[2]}). The merge to the "
               f"nearest level gains {nearest[0]}. Nearly all of the gain is answering with a grade (08)")  # fmt: skip
    before, guess = (
        printed("08_qlora", rf"(\S+) nats  {what}")[0]
        for what in ("before training", "knowing only how often each grade occurs")
    )
    assert float(before) - float(guess) > 0.95 * float(gained)
    there, kept, rival = (
        printed("08_qlora", rf"\n{what} +\S+ +(\S+)")[0]
        for what in (
            "adapter beside the base", "merged into four bits", "merged into the original weights, then four bits",
        )
    )  # fmt: skip
    assert there == gained
    said(PAGE, f"In 08 a merge into four bits kept {kept} of {there} nats")
    assert abs(float(rival) - float(chance[0])) < 0.02
    said(PAGE, "It did as well here as merging into the original weights (08)")
