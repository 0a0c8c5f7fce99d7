"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const key = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent.trim();
  for (const button of table.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement, column = head.cellIndex;
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const number = head.classList.contains("number");
      const compare = (a, b) => number ? Number(a) - Number(b) : a.localeCompare(b, undefined, {numeric: true});
      const rows = [...body.rows].sort((a, b) => compare(key(a, column), key(b, column)));
      body.append(...(down ? rows.reverse() : rows));
    });
  }
}
const status = document.getElementById("status"), words = document.getElementById("words");
const count = document.getElementById("count");
function filter() {
  const wanted = status.value, text = words.value.trim().toLowerCase();
  let left = 0;
  for (const row of document.querySelectorAll("#submissions tbody tr")) {
    row.hidden = (wanted && row.dataset.status !== wanted) || !row.textContent.toLowerCase().includes(text);
    left += !row.hidden;
  }
  count.textContent = left + " shown";
}
if (status) {
  status.addEventListener("change", filter);
  words.addEventListener("input", filter);
  filter();
}
