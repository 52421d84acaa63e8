"use strict";
// Keeps the choices of a rater in the browser, and saves them as the CSV file that `tunelab ratings` reads.
const main = document.getElementById("items");
const rater = document.getElementById("rater");
const items = [...main.querySelectorAll("fieldset")];
const place = `tunelab-ratings-${main.dataset.sheet}`;
const choiceOf = (item) => item.querySelector("input[type=radio]:checked")?.value ?? "";
const commentOf = (item) => item.querySelector(".comment").value;

function remember() {
  const kept = { rater: rater.value, items: {} };
  for (const item of items) kept.items[item.dataset.item] = [choiceOf(item), commentOf(item)];
  try { localStorage.setItem(place, JSON.stringify(kept)); } catch { /* a browser that keeps nothing */ }
}

function recall() {
  let kept = null;
  try { kept = JSON.parse(localStorage.getItem(place)); } catch { /* the same */ }
  if (!kept) return;
  rater.value = kept.rater;
  for (const item of items) {
    const [choice, comment] = kept.items[item.dataset.item] ?? ["", ""];
    for (const input of item.querySelectorAll("input[type=radio]")) input.checked = input.value === choice;
    item.querySelector(".comment").value = comment;
  }
}

function show() {
  let rated = 0;
  for (const item of items) {
    item.classList.toggle("rated", choiceOf(item) !== "");
    rated += choiceOf(item) !== "";
  }
  document.getElementById("done").textContent = `${rated} of ${items.length} rated`;
  document.getElementById("save").disabled = rated === 0 || rater.value.trim() === "";
}

function table() {
  const cell = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
  const rows = [["sheet", "item", "choice", "comment", "rater"]];
  for (const item of items) {
    rows.push([main.dataset.sheet, item.dataset.item, choiceOf(item), commentOf(item), rater.value.trim()]);
  }
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = `ratings-${(rater.value.match(/[\p{L}\p{N}]+/gu) ?? ["rater"]).join("-")}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000); // some browsers still read it
}

main.addEventListener("input", () => { remember(); show(); });
rater.addEventListener("input", () => { remember(); show(); });
document.getElementById("save").addEventListener("click", save);
recall();
show();
