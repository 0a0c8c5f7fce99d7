"use strict";
const data = JSON.parse(document.getElementById("data").dataset.json);
const marks = [...document.querySelectorAll(".mark")], comments = document.getElementById("comments");
const place = `coursekit marks typed on ${location.pathname}`;
const typed = JSON.parse(localStorage.getItem(place) ?? "{}");
const fields = mark => [mark.querySelector(".points"), mark.querySelector(".comment")];
const known = new Set([...comments.children].map(option => option.value));

function read(mark) {
  const [points, comment] = fields(mark);
  const text = points.value.trim().replace(",", "."), value = Number(text);
  const wrong = text !== "" && !(value >= 0 && (data.of === 0 || value <= data.of));
  mark.querySelector(".problem").textContent = wrong ? `a number from 0 to ${data.of}` : mark.dataset.said ?? "";
  return {text: wrong ? "" : text, comment: comment.value.trim(), wrong};
}

function look() {
  const all = marks.map(read);
  document.getElementById("count").textContent =
    `${all.filter(mark => mark.text !== "").length} of ${all.length} marked`;
  document.getElementById("save").disabled = all.some(mark => mark.wrong);
}

for (const mark of marks) {
  // What was typed over other marks than manual.csv has by now, a colleague's perhaps, is told and not put over them.
  const there = fields(mark).map(f => f.value), [was, over = there] = typed[mark.dataset.id] ?? [there];
  if (String(over) === String(there)) fields(mark).forEach((field, i) => { field.value = was[i]; });
  else if (String(was) !== String(there)) mark.dataset.said = `manual.csv has changed; you had typed: ${was.join(" ")}`;
  fields(mark).forEach(field => {
    field.addEventListener("input", () => {
      delete mark.dataset.said;
      typed[mark.dataset.id] = [fields(mark).map(f => f.value), there];
      localStorage.setItem(place, JSON.stringify(typed));
      look();
    });
  });
  mark.querySelector(".comment").addEventListener("change", event => {
    const text = event.target.value.trim();
    if (!text || known.has(text)) return;
    known.add(text);
    comments.append(Object.assign(document.createElement("option"), {value: text}));
  });
}

// As in tables.py: what a spreadsheet would take for a formula gets an apostrophe, which is taken off where it is read.
const harmless = text => text === "-" ? text : text.replace(/(^|;)(?=[=+\-@\t])/g, "$1'");
const cell = text => /[",;\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
document.getElementById("save").addEventListener("click", () => {
  const mine = marks.map(mark => [mark.dataset.id, read(mark)]).filter(([, mark]) => mark.text !== "")
    .map(([id, mark]) => [id, data.exercise, mark.text, mark.comment, data.own ? String(data.of) : ""]);
  const text = [data.columns, ...data.rows, ...mine].map(row => row.map(harmless).map(cell).join(",") + "\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = "manual.csv";
  link.click();
});
look();
